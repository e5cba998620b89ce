"""The wire schema of Ollama's dialect: /api/chat, /api/generate and what its clients ask about models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from mosso.api.chat_schema import TokenLogprobEntry, Tool
from mosso.api.completion_schema import TokenId
from mosso.api.sampling import MAX_TOP_LOGPROBS, StopText
from mosso.api.wire import MAX_MESSAGES, Off, WireModel, WireRequest


class OllamaFunction(WireModel):
    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Any]
    index: int | None = None
    description: str | None = None


class OllamaCall(WireModel):
    id: str | None = Field(None, max_length=256)
    type: Literal["function"] | None = None
    function: OllamaFunction


class OllamaMessage(WireModel):
    """A tool's result names its function (`tool_name`) or follows the order of the calls."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: list[Any] | None = None  # refused unless it is empty: gpt-oss reads text only


class OllamaOptions(WireModel):
    """What shapes an answer has its effect; what Ollama reads when it loads a model has none here."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)  # below 0: none
    num_predict: int | None = Field(None, ge=-2)  # 0 and below: as much as there is room for
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repeat_penalty: float | None = Field(None, gt=0, le=10)
    stop: StopText | list[StopText] | None = None
    # Of sampling methods that are not here, the values that turn them off.
    mirostat: int | None = Field(None, ge=0, le=0)
    tfs_z: float | None = Field(None, ge=1, le=1)
    typical_p: float | None = Field(None, ge=1, le=1)
    # Without effect: parameters of those methods, and of loading.
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    penalize_newline: bool | None = None
    repeat_last_n: int | None = None  # the whole text counts
    num_keep: int | None = None  # nothing is ever shifted out of the context
    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    embedding_only: bool | None = None


class OllamaRequest(WireRequest):
    """What the bodies of /api/chat and /api/generate share."""

    model: str
    stream: bool = True
    think: bool | Literal["low", "medium", "high"] | None = None
    format: Literal["json", ""] | dict[str, Any] | None = None
    options: OllamaOptions | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    keep_alive: float | str | None = None  # no effect: the model stays loaded
    truncate: Off | None = None  # a prompt that is too long is refused
    shift: Off | None = None


class OllamaChatRequest(OllamaRequest):
    """The body of POST /api/chat. Without messages it asks for the model to be loaded."""

    messages: list[OllamaMessage] = Field(default_factory=list, max_length=MAX_MESSAGES)
    tools: list[Tool] | None = Field(None, max_length=512)


class OllamaGenerateRequest(OllamaRequest):
    """The body of POST /api/generate. Without a prompt it asks for the model to be loaded.

    `context` is what an answer before this one gave: the conversation goes on. `raw`: the prompt is not made
    a message. A value of `suffix`, `template` and `images` is refused unless it is empty.
    """

    prompt: str = ""
    system: str = ""
    context: list[TokenId] | None = None
    raw: bool = False
    suffix: str = ""
    template: str = ""
    images: list[Any] | None = None


class ModelRequest(WireRequest):
    """A model by its name; `name` is the old word for `model`."""

    model: str = ""
    name: str = ""

    @property
    def asked(self) -> str:
        return self.model or self.name


class OllamaShowRequest(ModelRequest):
    """The body of POST /api/show."""

    verbose: bool = False  # there is nothing more to say
    # What older clients send beside the name, for a model that is made on the fly.
    refused: ClassVar[Mapping[str, str]] = {"options": "the model is shown as it is."}
    system: str = ""
    template: str = ""


class OllamaPullRequest(ModelRequest):
    """The body of POST /api/pull."""

    stream: bool = True
    insecure: bool = False  # nothing is fetched


class OllamaTimes(BaseModel):
    """What the last object of an answer adds; times in nanoseconds."""

    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class OllamaAnswer(OllamaTimes):
    model: str
    created_at: str
    done: bool
    logprobs: list[TokenLogprobEntry] | None = None


class OllamaAnsweredFunction(BaseModel):
    index: int
    name: str
    arguments: dict[str, Any]


class OllamaAnsweredCall(BaseModel):
    id: str
    function: OllamaAnsweredFunction


class OllamaAnsweredMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[OllamaAnsweredCall] | None = None


class OllamaChatAnswer(OllamaAnswer):
    """An answer of /api/chat, whole, or one line of it."""

    message: OllamaAnsweredMessage


class OllamaGenerateAnswer(OllamaAnswer):
    """An answer of /api/generate, whole, or one line of it."""

    response: str
    thinking: str | None = None
    context: list[int] | None = None


class OllamaDetails(BaseModel):
    parent_model: str = ""
    format: str = "safetensors"
    family: str = "gptoss"
    families: list[str] = ["gptoss"]
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    """A model in a list; sizes in bytes."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(BaseModel):
    models: list[OllamaModel]


class OllamaLoadedModel(OllamaModel):
    expires_at: str
    size_vram: int
    context_length: int


class OllamaLoadedModels(BaseModel):
    models: list[OllamaLoadedModel]


class OllamaShown(BaseModel):
    """What is known of a model."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    details: OllamaDetails
    model_info: dict[str, str | int | float]
    capabilities: list[Literal["completion", "tools", "thinking"]]
    modified_at: str


class OllamaStatus(BaseModel):
    """How far a pull is."""

    status: str


class OllamaVersion(BaseModel):
    """`version` is Ollama's, whose dialect is spoken: clients want a certain one at least."""

    version: str
    mosso: str


class OllamaError(BaseModel):
    """What went wrong, as this dialect says it: also the last line of a stream that fails midway."""

    error: str
