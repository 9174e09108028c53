"""`sparse_ext.hf`: what `save_pretrained` writes of a model with sparse layers, `from_pretrained` loads as it was."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import torch as safetensors
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

import sparse_ext as sx
import sparse_ext.hf
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import LAYOUTS

CONFIG = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=100)
TOKENS = torch.arange(8)[None]

# What a Sparsifier, or a user, may do to a layer before the model is saved.
CHANGES = {
    "as converted": lambda layer: None,
    "larger": lambda layer: layer.enlarge_(layer.capacity + 5),
    "dense weight": lambda layer: layer.store_dense_(),
    "another layout": lambda layer: layer.switch_("dense"),
}


def made(layout="csr", config=CONFIG):
    sparsity = 0.8 if LAYOUTS[layout].pattern.VARIABLE else None
    return sx.sparsify_(BertForSequenceClassification(config), sparsity, layout=layout).eval()


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return json.loads((Path(folder) / "config.json").read_text())


def loaded(folder, kind=AutoModelForSequenceClassification, **options):
    return kind.from_pretrained(folder, **options)


def assert_same(model, other):
    """Every tensor, bit for bit and in its dtype, and so what they compute."""
    before, after = model.state_dict(), other.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert torch.equal(tensor, after[name]), name
    assert [layer.layout for layer in sparse_layers(model).values()] == [one.layout for one in sparse_layers(other).values()]
    assert torch.equal(model(TOKENS)[0], other(TOKENS)[0])


def rewritten(folder, change):
    """Changes the tensors in the file of a saved model."""
    path = Path(folder) / "model.safetensors"
    tensors = safetensors.load_file(path)
    change(tensors)
    safetensors.save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "10KB"}], ids=["one file", "shards"])
@pytest.mark.parametrize("options", [{}, {"device_map": "cpu"}, {"device_map": "auto"}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_model_is_loaded_as_it_was(layout, options, shards, dtype, tmp_path):
    model = made(layout).to(dtype)
    saved(model, tmp_path, **shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == bool(shards)
    assert_same(model, loaded(tmp_path, dtype=dtype, **options))


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_is_saved_as_it_is_not_as_it_was_converted(change, tmp_path):
    model = made()
    CHANGES[change](model.bert.pooler.dense)
    saved(model, tmp_path)
    assert_same(model, loaded(tmp_path))


def test_layers_that_the_original_format_joins_are_saved_for_themselves(tmp_path):
    """It has the weights of gate_proj and up_proj as one, and halves it: here they are not of one length."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    kind = transformers.Dinov2Model
    model = sx.sparsify_(kind(kind.config_class(use_swiglu_ffn=True, **sizes)), 0.8)
    mlp = model.encoder.layer[0].mlp
    mlp.gate_proj.enlarge_(mlp.gate_proj.capacity + 6)
    model.save_pretrained(tmp_path)
    after = kind.from_pretrained(tmp_path).state_dict()
    assert not [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, after[name])]


def test_loading_in_another_dtype_rounds_the_weights_and_no_index(tmp_path):
    saved(model := made(), tmp_path)
    assert_same(model.to(torch.bfloat16), loaded(tmp_path, dtype=torch.bfloat16))


def test_a_loaded_model_can_be_trained_saved_and_made_dense(tmp_path):
    saved(made(), tmp_path / "first")
    model = loaded(tmp_path / "first")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    sparsifier = sx.Sparsifier(model, optimizer, sx.RigL(update_interval=1), total_steps=4)
    before = model.bert.pooler.dense.mask()
    for _ in range(2):
        model(TOKENS, labels=torch.ones(1, dtype=torch.long)).loss.backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    assert not torch.equal(model.bert.pooler.dense.mask(), before)
    saved(model, tmp_path / "second")
    assert_same(model, loaded(tmp_path / "second"))
    assert "quantization_config" not in saved(sx.densify_(model), tmp_path / "dense")
    assert_same(model, loaded(tmp_path / "dense"))


def test_what_is_loaded_lies_where_kernels_can_read_it(tmp_path):
    """In a file that is mapped into memory it lies anywhere."""
    saved(made(), tmp_path)
    tensors = [tensor for layer in sparse_layers(loaded(tmp_path)).values() for tensor in layer.state_dict().values()]
    assert not [tensor for tensor in tensors if tensor.data_ptr() % 16]


def test_only_the_file_says_that_layers_are_sparse(tmp_path):
    """transformers' Trainer refuses to train what it takes for a quantized model."""
    model = made()
    entry = saved(model, tmp_path)["quantization_config"]
    assert (entry["quant_method"], entry["layers"].keys()) == ("sparse_ext", sparse_layers(model).keys())
    for one in (model, loaded(tmp_path)):
        assert not hasattr(one.config, "quantization_config")
        assert getattr(one, "hf_quantizer", None) is None
        assert not getattr(one, "is_quantized", False)


def test_models_may_share_a_config(tmp_path):
    """As a teacher and its student do."""
    config = copy.deepcopy(CONFIG)
    teacher, student = BertForSequenceClassification(config).eval(), made(config=config)
    saved(student, tmp_path / "student")
    assert "quantization_config" not in saved(teacher, tmp_path / "teacher")
    assert_same(teacher, loaded(tmp_path / "teacher"))
    sparse = transformers.AutoConfig.from_pretrained(tmp_path / "student")
    assert "quantization_config" not in saved(BertForSequenceClassification(sparse), tmp_path / "new")


def test_what_the_caller_passes_as_state_dict_is_saved(tmp_path):
    """Such as averaged weights."""
    model, average = made(), made()
    average.load_state_dict(model.state_dict())
    with torch.no_grad():
        average.classifier.weight += 1
    saved(model, tmp_path, state_dict=average.state_dict())
    assert_same(average, loaded(tmp_path))


def test_a_copy_and_a_part_are_saved_for_themselves(tmp_path):
    model = made()
    part = copy.deepcopy(model).bert
    sx.densify_(model)
    saved(part, tmp_path)
    assert_same(part, loaded(tmp_path, AutoModel))


def test_a_model_around_the_saved_one_or_inside_of_it_is_loaded(tmp_path):
    model = made()
    saved(model, tmp_path / "whole")
    saved(model.bert, tmp_path / "base")
    assert_same(model.bert, loaded(tmp_path / "whole", BertModel))
    assert_same(model.bert, loaded(tmp_path / "base").bert)


class SparseHead(BertForSequenceClassification):
    """A model that is sparse by its own code."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = sx.SparseLinear(32, 2, sparsity=0.5)


def test_a_layer_of_the_models_own_code_is_loaded_as_it_became(tmp_path):
    model = SparseHead(CONFIG).eval()
    model.classifier.enlarge_(40)
    saved(model, tmp_path)
    assert_same(model, loaded(tmp_path, SparseHead))


def test_a_head_of_another_shape_is_a_mismatch_as_of_dense_layers(tmp_path):
    model = BertForSequenceClassification(CONFIG)
    model.classifier = sx.SparseLinear.from_dense(model.classifier, sparsity=0.5)
    saved(model, tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        loaded(tmp_path, num_labels=3)
    other = loaded(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert isinstance(other.classifier, nn.Linear)
    assert torch.equal(other.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)


NAME = "bert.pooler.dense"


def without(key):
    return lambda tensors: tensors.pop(f"{NAME}.{key}")


def backwards(tensors):
    tensors[f"{NAME}.row_ptr"] = tensors[f"{NAME}.row_ptr"].flip(0).contiguous()


def shorter(tensors):
    tensors[f"{NAME}.weight"] = tensors[f"{NAME}.weight"][1:].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("weight"), rf"{NAME}.weight: expected a tensor of shape \(\d+,\) in the checkpoint, got none"),
        (without("col_idx"), rf"{NAME}.col_idx: expected a tensor"),
        (without("bias"), rf"{NAME}.bias: expected a tensor"),
        (backwards, rf"{NAME}: .*expected row_ptr to begin with 0"),
        (shorter, rf"{NAME}.weight: expected a tensor of shape"),
    ],
    ids=["no weight", "no index", "no bias", "rows backwards", "a shorter weight"],
)
def test_a_layer_that_is_not_whole_is_refused(change, message, tmp_path):
    """transformers would fill it up with random numbers, or with none."""
    saved(made(), tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        loaded(tmp_path, ignore_mismatched_sizes=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected version 1 or older, got 2"),
        ({"layers": {NAME: {"layout": "csr"}}}, f"{NAME}: expected the fields layout, shape, .* got layout"),
    ],
)
def test_an_entry_of_another_version_is_refused(change, message, tmp_path):
    config = saved(made(), tmp_path)
    config["quantization_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path)


def test_a_layer_that_is_not_in_memory_is_refused(tmp_path):
    saved(made(), tmp_path)
    where = {"bert.embeddings": "cpu", "bert.encoder": "cpu", "bert.pooler": "disk", "classifier": "cpu"}
    with pytest.raises(ValueError, match=f'{NAME}.weight: expected a tensor in memory, got one on "disk"'):
        loaded(tmp_path, device_map=where, offload_folder=tmp_path / "offloaded")


def test_who_has_not_imported_the_module_gets_an_error(tmp_path, monkeypatch):
    monkeypatch.delitem(AUTO_QUANTIZATION_CONFIG_MAPPING, "sparse_ext")
    saved(made(), tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        loaded(tmp_path)


def test_a_dense_checkpoint_is_not_loaded_as_a_sparse_one(tmp_path):
    model = BertForSequenceClassification(CONFIG)
    saved(model, tmp_path)
    with pytest.raises(ValueError, match=r"expected a checkpoint whose config.json has this .*; load .*sparsify_"):
        loaded(tmp_path, quantization_config=sx.hf.SparseConfig.of(made()))


def test_a_quantized_model_with_sparse_layers_is_refused(tmp_path):
    model = made()
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match="expected sparse layers in a model that is not quantized, got one that bitsandbytes"):
        saved(model, tmp_path)
    assert not list(tmp_path.iterdir())
