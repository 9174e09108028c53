"""Models of other packages, as small as their configurations allow: what is converted of each, and why the rest stays dense."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

TOKENS = torch.arange(16).view(2, 8)
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


class Model(NamedTuple):
    """A model of the zoo.

    Attributes:
        make: a new one.
        inputs: of a forward pass, by name.
        share: the converted share of its matrix weights.
        dense: {class: reason}, of those that stay dense.
    """

    make: Callable[[], nn.Module]
    inputs: dict[str, Any]
    share: float
    dense: dict[str, str]


def hugging_face(name, **sizes):
    """How the model of this class and configuration is made."""
    kind = getattr(transformers, name)
    return lambda: kind(kind.config_class(**sizes))


class GraphModel(nn.Module):
    """A graph network that returns what models of Hugging Face do."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x, edge_index, labels):
        logits = self.layers(x, edge_index)
        return nn.functional.cross_entropy(logits, labels), logits


def graph(name, **options):
    def make():
        import torch_geometric

        return GraphModel(getattr(torch_geometric.nn, name)(16, 32, 2, 4, **options))

    return make


WHOLE = "its share of the sparsity leaves it all weights"
READ = "MambaMixer.forward reads its weight as a dense matrix"


def nothing(kind):
    return {kind: f"nothing replaces {kind}; see register_layer"}


CLASSES = {"labels": torch.tensor([0, 1])}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32), **CLASSES}
TEXTS = {"input_ids": TOKENS, "labels": TOKENS}
GRAPH = {
    "x": torch.linspace(-1, 1, 6 * 16).view(6, 16),
    "edge_index": torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]]),
    "labels": torch.arange(6) % 4,
}
SPOKEN = {"input_features": torch.linspace(-1, 1, 2 * 8 * 32).view(2, 8, 32), "labels": TOKENS}

GPT2 = {"vocab_size": 64, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
WHISPER = {
    **{"vocab_size": 64, "num_mel_bins": 8, "d_model": 32, "max_source_positions": 16, "max_target_positions": 16},
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}
MAMBA = {"vocab_size": 64, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}

MODELS = {
    "bert": Model(
        hugging_face("BertForSequenceClassification", **SIZES), {"input_ids": TOKENS, **CLASSES}, 0.9963, {"Linear": WHOLE}
    ),
    "gpt2": Model(hugging_face("GPT2LMHeadModel", **GPT2), TEXTS, 1.0, {}),
    "llama": Model(hugging_face("LlamaForCausalLM", num_key_value_heads=2, **SIZES), TEXTS, 1.0, {}),
    "t5": Model(hugging_face("T5ForConditionalGeneration", **T5), TEXTS, 1.0, {}),
    "vit": Model(
        hugging_face("ViTForImageClassification", image_size=32, patch_size=8, **SIZES),
        IMAGES, 0.9737, {"Linear": WHOLE, **nothing("ViTEmbeddings")},
    ),
    "whisper": Model(hugging_face("WhisperForConditionalGeneration", **WHISPER), SPOKEN, 1.0, {}),
    "mamba": Model(
        hugging_face("MambaForCausalLM", **MAMBA),
        TEXTS, 0.5517, {"Conv1d": READ, "Linear": READ, **nothing("MambaMixer")},
    ),
    "mixtral": Model(
        hugging_face("MixtralForCausalLM", num_key_value_heads=2, num_local_experts=4, **SIZES),
        TEXTS, 0.1422, {**nothing("MixtralExperts"), **nothing("MixtralTopKRouter")},
    ),
    "resnet": Model(
        hugging_face("ResNetForImageClassification", embedding_size=16, layer_type="basic", **STAGES),
        IMAGES, 0.9730, {"Conv2d": WHOLE, "Linear": WHOLE},
    ),
    "convnext": Model(
        hugging_face("ConvNextForImageClassification", num_stages=2, **STAGES),
        IMAGES, 0.8438, {"Conv2d": "a depthwise convolution has too few weights for zeros to pay", "Linear": WHOLE},
    ),
    "gcn": Model(graph("GCN"), GRAPH, 1.0, {}),
    "gat": Model(graph("GAT", heads=4), GRAPH, 0.9143, nothing("GATConv")),
}  # fmt: skip
