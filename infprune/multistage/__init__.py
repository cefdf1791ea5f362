"""Two training stages: influence of the first one's samples on what the second one predicts (MS).

`sharing` which parameters the stages have in common; `influence` Algorithm 1 and its second case; `layers` the head
that is replaced and the layers that are held; `left_out` training without a sample, for comparison.
"""
