"""torch's own encoder, which leaves out padding at the ends of rows, and gives zeros there, without gradients only."""

from __future__ import annotations

import torch


class PaddedEncoder(torch.nn.Module):
    """A `TransformerEncoder` with a mask of padding: x [batch, sequence, 8], padding [batch, sequence]."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.encoder(x, src_key_padding_mask=padding)
        return found
