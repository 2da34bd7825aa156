"""Runs a sentence-transformers BERT, such as all-MiniLM-L6-v2, on onnxruntime, without torch.

This module builds the graph, which has a few kilobytes. The weights stay in the folder's `model.safetensors` as external data, and onnxruntime maps them into
memory. All functions block, and are safe to call from several threads.

Source: Devlin et al., "BERT" (2018); Reimers, Gurevych, "Sentence-BERT" (2019): mean pooling, then unit length.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError
from ragcore.protocols import Vector

__all__ = ["SentenceModel", "Settings", "batches", "load_onnxruntime", "read_settings"]

OPSET = 23  # the first version with Attention; onnxruntime supports it from 1.23 on
IR_VERSION = 10
# The largest number of padded tokens in one run. Above 256 tokens, larger batches are not faster. The work can be stopped only between two batches.
BATCH_TOKENS = 512
# Longer texts are cut before tokenising: the model truncates after tokenising, which takes half a second for a megabyte. 256 tokens of ordinary text have
# fewer characters than this.
MOST_CHARACTERS = 8_000
PURPOSE = "the local embedder"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a model, from its folder."""

    folder: Path
    hidden: int
    layers: int
    heads: int
    epsilon: float
    max_tokens: int


def read_settings(folder: Path) -> Settings:
    """Read `config.json` and the other settings files.

    Raises:
        ConfigurationError: the folder does not exist, or the model is not a BERT with mean pooling.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder} is not the folder of a sentence-transformers model: {error}") from error
    if (
        config.get("model_type") != "bert"
        or not pooling.get("pooling_mode_mean_tokens")
        or config.get("hidden_act") != "gelu"
    ):
        raise ConfigurationError(
            f"{folder} holds a model of another kind: the local embedder runs only BERT models with mean pooling"
        )
    for name in ("model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigurationError(f"{folder} has no {name}")
    return Settings(
        folder=folder,
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        epsilon=config["layer_norm_eps"],
        max_tokens=min(limits.get("max_seq_length", 256), config["max_position_embeddings"]),
    )


def load_onnxruntime(purpose: str = PURPOSE) -> Any:
    """Return onnxruntime with telemetry off. By default, from 1.29 on, it writes a device id and the process's path into the home folder and sends them.

    onnxruntime reads these environment variables when it is loaded. If other code has already imported it, `disable_telemetry_events` stops the telemetry.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["ORT_TELEMETRY_DISABLED"] = "1"
    module = require("onnxruntime", extra="local", purpose=purpose)
    switch = getattr(module, "disable_telemetry_events", None)
    if switch is not None:
        switch()
    return module


class SentenceModel:
    """A loaded model: `encode` makes vectors. Loading takes about 0.1 s and 100 MB, most of which is the mapped file."""

    dimension: int

    def __init__(self, settings: Settings) -> None:
        onnxruntime = load_onnxruntime()
        tokenizers = require("tokenizers", extra="local", purpose=PURPOSE)
        self.dimension = settings.hidden
        self._tokenizer = tokenizers.Tokenizer.from_file(str(settings.folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(settings.max_tokens)
        self._tokenizer.encode_special_tokens = True  # treat "[SEP]" within a text as ordinary text
        # onnxruntime refuses links that leave the folder.
        weights = Path(os.path.realpath(settings.folder / "model.safetensors"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.parent))
        graph = _Graph(settings, weights).build()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str], *, stopped: Any = None) -> Vector:
        """Return a (len(texts), dimension) float32 array of unit vectors, in the order of `texts`.

        Args:
            stopped: a `threading.Event`. When it is set, the work ends after the current batch (within about 0.1 s).
        """
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        if not texts:
            return vectors
        encodings = self._tokenizer.encode_batch([text[:MOST_CHARACTERS] for text in texts])
        tokens = [encoding.ids for encoding in encodings]
        for batch in batches([len(ids) for ids in tokens]):
            if stopped is not None and stopped.is_set():
                break
            vectors[batch] = self._run([tokens[number] for number in batch])
        return vectors

    def _run(self, tokens: Sequence[Sequence[int]]) -> Vector:
        length = max(map(len, tokens))
        ids = np.zeros((len(tokens), length), np.int64)
        mask = np.zeros((len(tokens), length), np.bool_)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = True
        (vectors,) = self._session.run(None, {"ids": ids, "mask": mask})
        result: Vector = vectors
        return result


def load_counter(settings: Settings) -> Any:
    """Return a separate tokenizer for counting: truncation is a setting of the tokenizer, and counting must not truncate."""
    tokenizer = require("tokenizers", extra="local", purpose=PURPOSE).Tokenizer.from_file(
        str(settings.folder / "tokenizer.json")
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Group the numbers of texts by similar length, longest first, at most BATCH_TOKENS padded tokens each, so that there is little padding."""
    found: list[list[int]] = []
    width = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if found and (len(found[-1]) + 1) * width <= BATCH_TOKENS:
            found[-1].append(number)
        else:
            found.append([number])
            width = lengths[number]
    return found


class _Graph:
    """The ONNX graph of a BERT encoder with mean pooling, built as in the paper's formulas."""

    def __init__(self, settings: Settings, weights: Path) -> None:
        self._onnx = require("onnx", extra="local", purpose=PURPOSE)
        self._settings = settings
        self._weights = weights
        self._table, self._data_start = _read_table(weights)
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def build(self) -> bytes:
        s, onnx = self._settings, self._onnx
        ids, mask = "ids", "mask"
        self._constant("one", np.array([1], np.int64))
        self._constant("zero", np.array([0], np.int64))
        self._constant("flat", np.array([-1, s.hidden], np.int64))

        shape = self._node("Shape", ids)
        length = self._node("Slice", shape, "one", self._constant("two", np.array([2], np.int64)))
        folded = self._node("Concat", shape, self._constant("hidden", np.array([s.hidden], np.int64)), axis=0)
        word = self._node("Gather", self._weight("embeddings.word_embeddings.weight"), ids)
        position = self._node("Slice", self._weight("embeddings.position_embeddings.weight"), "zero", length)
        kind = self._node("Gather", self._weight("embeddings.token_type_embeddings.weight"), "zero")
        x = self._node("Add", self._node("Add", word, position), kind)
        x = self._node("Reshape", self._norm(x, "embeddings.LayerNorm"), "flat")

        # The positions that attention may use: [B, S] → [B, 1, S, S].
        wide = self._node("Unsqueeze", mask, self._constant("axes", np.array([1, 2], np.int64)))
        square = self._node("Concat", self._node("Slice", shape, "zero", "one"), "one", length, length, axis=0)
        visible = self._node("Expand", wide, square)

        for number in range(s.layers):
            layer = f"encoder.layer.{number}"
            q, k, v = (
                self._node("Reshape", self._linear(x, f"{layer}.attention.self.{name}"), folded)
                for name in ("query", "key", "value")
            )
            seen = self._node("Attention", q, k, v, visible, q_num_heads=s.heads, kv_num_heads=s.heads)
            seen = self._linear(self._node("Reshape", seen, "flat"), f"{layer}.attention.output.dense")
            x = self._norm(self._node("Add", x, seen), f"{layer}.attention.output.LayerNorm")
            inner = self._node("Gelu", self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(
                self._node("Add", x, self._linear(inner, f"{layer}.output.dense")), f"{layer}.output.LayerNorm"
            )

        # Add up the vectors of the real tokens and scale the sum to unit length. So the mean need not be computed: it has the same direction as the sum.
        weight = self._node(
            "Unsqueeze",
            self._node("Cast", mask, to=onnx.TensorProto.FLOAT),
            self._constant("last", np.array([2], np.int64)),
        )
        total = self._node("ReduceSum", self._node("Mul", self._node("Reshape", x, folded), weight), "one", keepdims=0)
        norm = self._node("ReduceL2", total, "one", keepdims=1)
        self._node("Div", total, norm, output="vectors")
        return self._model()

    def _model(self) -> bytes:
        helper, proto = self._onnx.helper, self._onnx.TensorProto
        graph = helper.make_graph(
            self._nodes,
            "sentence",
            [
                helper.make_tensor_value_info("ids", proto.INT64, ["batch", "length"]),
                helper.make_tensor_value_info("mask", proto.BOOL, ["batch", "length"]),
            ],
            [helper.make_tensor_value_info("vectors", proto.FLOAT, ["batch", self._settings.hidden])],
            list(self._initializers.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        written: bytes = model.SerializeToString()
        return written

    def _node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{op}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def _linear(self, x: str, name: str) -> str:
        return self._node("Gemm", x, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"), transB=1)

    def _norm(self, x: str, name: str) -> str:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._node("LayerNormalization", x, weight, bias, axis=-1, epsilon=self._settings.epsilon)

    def _constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self._initializers[name] = self._onnx.numpy_helper.from_array(value, name)
        return name

    def _weight(self, name: str) -> str:
        """Add a tensor whose data stays in the safetensors file, and return its name."""
        if name in self._initializers:
            return name
        entry = self._table.get(name) or self._table.get(f"bert.{name}")
        if entry is None or entry["dtype"] != "F32":
            raise ConfigurationError(
                f"{self._weights} has no float32 tensor {name!r}: the local embedder can't run this model"
            )
        begin, end = entry["data_offsets"]
        tensor = self._onnx.TensorProto(name=name, data_type=self._onnx.TensorProto.FLOAT, dims=entry["shape"])
        tensor.data_location = self._onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", self._weights.name),
            ("offset", self._data_start + begin),
            ("length", end - begin),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor
        return name


def _read_table(weights: Path) -> tuple[dict[str, Any], int]:
    """Return the table of a safetensors file, and the position of its data.

    Source: https://huggingface.co/docs/safetensors: 8 bytes with the table's length, the table as JSON, the data.
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            table = json.loads(file.read(min(length, 100_000_000)))
    except (OSError, ValueError, struct.error) as error:
        raise ConfigurationError(f"{weights} is not a safetensors file: {error}") from error
    table.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in table.values()), default=0)
    if weights.stat().st_size != end:
        raise ConfigurationError(
            f"{weights} has {weights.stat().st_size:,} bytes and should have {end:,}: it is incomplete or damaged; install it again"
        )
    return table, 8 + length
