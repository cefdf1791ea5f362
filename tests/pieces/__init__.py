"""Pieces of generated networks, by name; each is a function from its place to a module."""

from pieces.attention import ATTENTION
from pieces.channels import MIXES, MOVES, PARTS, SPACE
from pieces.maps import CONVOLUTIONS, GATES, NORMS
from pieces.pairs import PAIRS, TOKEN_PAIRS
from pieces.tokens import TOKENS

MAP_PIECES = CONVOLUTIONS | NORMS | GATES | PARTS | MOVES | SPACE | MIXES
TOKEN_PIECES = TOKENS | ATTENTION
PIECES = MAP_PIECES | TOKEN_PIECES | PAIRS | TOKEN_PAIRS
