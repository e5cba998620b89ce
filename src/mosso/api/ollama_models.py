"""What Ollama's clients are told of the one model there is."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from mosso.api.ollama_prompt import model_name
from mosso.api.ollama_schema import (
    OllamaDetails,
    OllamaLoadedModel,
    OllamaLoadedModels,
    OllamaModel,
    OllamaModels,
    OllamaShown,
)
from mosso.api.settings import ApiSettings, ModelFacts
from mosso.api.wire import check_model
from mosso.core.errors import UnavailableError
from mosso.core.source import TokenSource

ARCHITECTURE = "gptoss"
FOREVER = "2318-01-01T00:00:00Z"  # the model is never unloaded


class ModelCards:
    """Made once for an app. Context lengths are 0 until the engine is ready and tells its own."""

    def __init__(self, settings: ApiSettings, source: TokenSource) -> None:
        self._settings = settings
        self._source = source
        self._since = datetime.fromtimestamp(settings.now(), UTC).isoformat().replace("+00:00", "Z")
        self._details = _details(settings.facts)

    def check(self, asked: str) -> None:
        """NotFoundError unless this is one of the served names."""
        check_model(model_name(asked), self._settings.model_names)

    def listed(self) -> OllamaModels:
        return OllamaModels(models=[self._card(name) for name in self._settings.model_names])

    def loaded(self) -> OllamaLoadedModels:
        card = self._card(self._settings.model)
        loaded = OllamaLoadedModel(
            **card.model_dump(), expires_at=FOREVER, size_vram=card.size, context_length=self._context()
        )
        return OllamaLoadedModels(models=[loaded])

    def shown(self, asked: str) -> OllamaShown:
        """NotFoundError unless this is one of the served names."""
        self.check(asked)
        return OllamaShown(
            details=self._details,
            model_info={
                "general.architecture": ARCHITECTURE,
                "general.basename": model_name(asked),
                **_numbers(self._settings.facts),
                f"{ARCHITECTURE}.context_length": self._context(),
            },
            capabilities=["completion", "tools", "thinking"],
            modified_at=self._since,
        )

    def _card(self, name: str) -> OllamaModel:
        facts = self._settings.facts
        return OllamaModel(
            name=name,
            model=name,
            modified_at=self._since,
            size=facts.nbytes if facts else 0,
            digest=hashlib.sha256(self._settings.model.encode()).hexdigest(),  # one model, one digest
            details=self._details,
        )

    def _context(self) -> int:
        try:
            return self._source.limits.max_context
        except UnavailableError:
            return 0


def _details(facts: ModelFacts | None) -> OllamaDetails:
    if facts is None:
        return OllamaDetails(parameter_size="", quantization_level="")
    millions = facts.config.parameters / 1e6
    size = f"{millions / 1000:.1f}B" if millions >= 1000 else f"{millions:.1f}M"
    return OllamaDetails(parameter_size=size, quantization_level=facts.quantization)


def _numbers(facts: ModelFacts | None) -> dict[str, str | int | float]:
    """Under the names that GGUF files have for them."""
    if facts is None:
        return {}
    config = facts.config
    own: dict[str, int | float] = {
        "block_count": config.num_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "expert_count": config.num_experts,
        "expert_used_count": config.experts_per_token,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.sliding_window": config.window,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope.theta,
        "vocab_size": config.vocab_size,
    }
    return {
        "general.parameter_count": config.parameters,
        **{f"{ARCHITECTURE}.{name}": value for name, value in own.items()},
    }
