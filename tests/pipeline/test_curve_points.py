"""The points of `infprune data curve`, as the store knows them."""

from infprune.pipeline.data_curve import Point


def test_close_shares_are_different_points():
    shares = [0.3, 0.3 + 1e-9, 1.0]
    keys = {Point("hard", share, 0).key for share in shares}
    assert len(keys) == len(shares)
    assert [float(key.split("/")[1]) for key in sorted(keys)] == shares
