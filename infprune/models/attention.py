"""Multi-head attention with one linear module for each of its four weights, so that each can be measured and cut."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    r"""`torch.nn.MultiheadAttention` with modules `query`, `key`, `value` and `out`; same arguments, same result.

    .. math:: y = W_o \, [\mathrm{softmax}(s\, q_h k_h^T) v_h]_h, \quad s = 1 / \sqrt{D}

    The scale `s` stays that of the dense head width D when query and key become narrower, so that removing an index of
    both is the same as zeroing it.
    """

    in_proj_bias = None  # tells nn.TransformerEncoderLayer to call this module instead of reading its weights
    _qkv_same_embed_dim = False

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.batch_first = source.batch_first
        self.dropout = source.dropout
        self.scale = source.head_dim**-0.5
        weights = _weights(source)
        biases = (None,) * 3 if source.in_proj_bias is None else source.in_proj_bias.detach().chunk(3)
        self.query, self.key, self.value = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        out = source.out_proj
        self.out = _linear(out.weight.detach(), None if out.bias is None else out.bias.detach())
        self.out.weight.requires_grad_(out.weight.requires_grad)
        if out.bias is not None:
            self.out.bias.requires_grad_(out.bias.requires_grad)
        for letter, module in zip("qkv", (self.query, self.key, self.value), strict=True):
            packed: Tensor | None = source.in_proj_weight
            weight = getattr(source, f"{letter}_proj_weight") if packed is None else packed
            module.weight.requires_grad_(weight.requires_grad)
            if source.in_proj_bias is not None:
                module.bias.requires_grad_(source.in_proj_bias.requires_grad)
        self.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002 - the signature of torch
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values and, if asked for, the weights; `is_causal` is a hint about `attn_mask`."""
        del is_causal  # torch requires the mask that goes with it
        batched, second = query.dim() == 3, not self.batch_first
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif second:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            m(x).reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for m, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        logits = (q * self.scale) @ k.transpose(-2, -1)
        mask = self._mask(attn_mask, key_padding_mask, logits)
        weights = (logits if mask is None else logits + mask).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        y = self.out((weights @ v).transpose(1, 2).flatten(2))
        y = y.squeeze(0) if not batched else y.transpose(0, 1) if second else y
        if not need_weights:
            return y, None
        shown = weights.mean(1) if average_attn_weights else weights
        return y, shown if batched else shown.squeeze(0)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one that is added to the logits `(N, H, L, S)`."""
        total = None
        if attn_mask is not None:
            total = _additive(attn_mask, like)
            total = total.reshape(-1, self.num_heads, *total.shape[1:]) if total.dim() == 3 else total
        if padding is not None:
            padded = _additive(padding if padding.dim() == 2 else padding[None], like)[:, None, None]
            total = padded if total is None else total + padded
        return total


def explicit(network: nn.Module) -> nn.Module:
    """Replace, in place, every plain `torch.nn.MultiheadAttention` of a network; returns the network.

    Those with extra key and value biases or an added zero attention are left as they are.
    """
    if _plain(network):
        return Attention(network)  # type: ignore[arg-type]
    made: dict[nn.Module, Attention] = {}
    for owner in list(network.modules()):
        for name, child in owner._modules.items():  # noqa: SLF001 - named_children leaves out what comes twice
            if child is not None and _plain(child):
                made[child] = made.get(child) or Attention(child)  # type: ignore[arg-type]
                setattr(owner, name, made[child])
        if isinstance(owner, nn.TransformerEncoder):
            owner.use_nested_tensor = False  # the packed form, which reads the weights that are gone
    return network


def _plain(module: nn.Module) -> bool:
    if type(module) is not nn.MultiheadAttention:
        return False
    return module.bias_k is None and not module.add_zero_attn


def _weights(source: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    packed: Tensor | None = source.in_proj_weight
    if packed is not None:
        return packed.detach().chunk(3)
    return tuple(w.detach() for w in (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone())
    return linear


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """True means "do not look" in torch's boolean masks."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    zero: Any = torch.zeros(mask.shape, dtype=like.dtype, device=mask.device)
    return zero.masked_fill(mask, float("-inf"))  # type: ignore[no-any-return]
