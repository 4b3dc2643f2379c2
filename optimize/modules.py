"""The transformer with everything that follows it, so that one graph holds the whole model."""

from inspect import signature
from typing import Any, Literal

import torch

Pooling = Literal["mean", "cls"]


class PooledEncoder(torch.nn.Module):
    """A transformer with its pooling and L2 normalisation."""

    def __init__(self, encoder: Any, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.pooling = pooling

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, T] ids and mask -> [N, dim] unit vectors."""
        pooled = pool(self.encoder, self.pooling, input_ids, attention_mask, token_type_ids)
        return torch.nn.functional.normalize(pooled, dim=1)


class Classifier(torch.nn.Module):
    """A transformer with its pooling, a linear layer and calibrated probabilities."""

    def __init__(
        self, encoder: Any, pooling: Pooling, classes: int, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.pooling = pooling
        self.dropout = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(encoder.config.hidden_size, classes)
        self.temperature = temperature

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, T] ids and mask -> [N, classes] probabilities."""
        logits = self.logits(input_ids, attention_mask, token_type_ids)
        return torch.softmax(logits / self.temperature, dim=1)

    def logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, T] ids and mask -> [N, classes], before temperature and softmax."""
        pooled = pool(self.encoder, self.pooling, input_ids, attention_mask, token_type_ids)
        logits: torch.Tensor = self.head(self.dropout(pooled))
        return logits


class PairScorer(torch.nn.Module):
    """A cross-encoder: a query and a text in one sequence, one logit out."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, T] ids and mask of pairs -> [N, 1] logits."""
        return head_logits(self.encoder, input_ids, attention_mask, token_type_ids)


class HeadedClassifier(torch.nn.Module):
    """A classifier as it was brought, with the head that it was saved with, and calibrated probabilities."""

    def __init__(self, encoder: Any, temperature: float = 1.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.temperature = temperature

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, T] ids and mask -> [N, classes] probabilities."""
        logits = self.logits(input_ids, attention_mask, token_type_ids)
        return torch.softmax(logits / self.temperature, dim=1)

    def logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, T] ids and mask -> [N, classes], before temperature and softmax."""
        return head_logits(self.encoder, input_ids, attention_mask, token_type_ids)


def pool(
    encoder: Any,
    pooling: Pooling,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None,
) -> torch.Tensor:
    """One vector [N, dim] per sequence: the mean over its tokens, or its first token."""
    hidden: torch.Tensor = encoder(
        input_ids=input_ids, attention_mask=attention_mask, **known_types(encoder, token_type_ids)
    ).last_hidden_state  # [N, T, dim]
    if pooling == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def head_logits(
    encoder: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None,
) -> torch.Tensor:
    """[N, T] ids and mask -> [N, outputs] of a transformer's own head."""
    logits: torch.Tensor = encoder(
        input_ids=input_ids, attention_mask=attention_mask, **known_types(encoder, token_type_ids)
    ).logits
    return logits


def known_types(encoder: Any, token_type_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The token types as an argument, unless the architecture has none (MPNet, DistilBERT)."""
    if token_type_ids is None or "token_type_ids" not in signature(encoder.forward).parameters:
        return {}
    return {"token_type_ids": token_type_ids}
