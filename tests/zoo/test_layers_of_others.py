"""Linear layers of packages that a model brings: Hugging Face's Conv1D, PyTorch Geometric's Linear, experts that stay dense."""

import copy

import pytest
import torch
from cases import TOLERANCE

import sparse_ext as sx
from sparse_ext.nn import SparseGraphLinear, SparseTransposedLinear, sparse_layers

CLOSE = TOLERANCE[torch.float32]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}


def gpt2():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()


@pytest.mark.filterwarnings("ignore:sparsify_")
def test_gpt2_trains_and_comes_back():
    model, ids = gpt2(), torch.arange(16).view(2, 8)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    stds = [float(block.mlp.c_proj.weight.detach().std()) for block in model.transformer.h]
    sx.sparsify_(model, 0.5)
    layers = sparse_layers(model)
    assert {type(layer) for layer in layers.values()} == {SparseTransposedLinear}
    assert len(layers) == 8
    for block, std in zip(model.transformer.h, stds, strict=True):  # smaller than the other layers', as GPT-2 has it
        layer = block.mlp.c_proj
        found = float(layer.weight.detach().square().sum() / layer.mask().numel()) ** 0.5
        assert found == pytest.approx(std, rel=0.1)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers.values())
    with torch.no_grad():
        want = model(input_ids=ids).logits
        dense = sx.densify_(copy.deepcopy(model))
        torch.testing.assert_close(dense(input_ids=ids).logits, want, **CLOSE)
        assert {name: tensor.shape for name, tensor in dense.state_dict().items()} == shapes
        model.load_state_dict(dense.state_dict())
        torch.testing.assert_close(model(input_ids=ids).logits, want, **CLOSE)


@pytest.mark.filterwarnings("ignore:sparsify_")
def test_a_pretrained_model_is_not_thrown_away_without_a_word(tmp_path):
    model = gpt2()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"from_pretrained has loaded them.*init='magnitude' keeps the largest"):
        sx.sparsify_(loaded, 0.5)
    loaded = type(model).from_pretrained(tmp_path)
    sx.sparsify_(loaded, 0.75, distribution="uniform", init="magnitude")
    layer, dense = loaded.transformer.h[0].attn.c_attn, model.transformer.h[0].attn.c_attn.weight.detach().t()
    kept = dense * layer.mask()
    torch.testing.assert_close(layer.dense_weight(), kept)
    assert kept[layer.mask()].abs().min() >= dense[~layer.mask()].abs().max()


def test_stacked_experts_are_named():
    transformers = pytest.importorskip("transformers")
    config = transformers.GptOssConfig(**SMALL, num_local_experts=4, head_dim=8, num_key_value_heads=2)
    model = transformers.GptOssForCausalLM(config)
    with pytest.warns(UserWarning, match=r"86% of matrix weights stay dense: GptOssExperts \(49152\)"):
        sx.sparsify_(model, 0.5)
    whys = {row.why for row in sx.summary(model).weights if row.kind == "GptOssExperts"}
    assert whys == {"nothing replaces GptOssExperts; see register_layer"}


def test_who_reads_a_weight():
    """Mamba multiplies by a child's weight itself; T5 looks at its dtype only."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(d_model=32, d_kv=8, num_layers=1, num_heads=4, d_ff=64, vocab_size=64)
    model = transformers.T5ForConditionalGeneration(config)
    with pytest.warns(UserWarning, match="stays dense") as told:
        sx.sparsify_(model, 0.5)
    assert [str(one.message) for one in told] == ["sparsify_: 'lm_head' stays dense: its weight is tied to another module's"]
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1))
    with pytest.warns(
        UserWarning, match=r"'backbone.layers.0.mixer.out_proj' stays dense: MambaMixer\.forward reads its weight"
    ):
        sx.sparsify_(mamba, 0.5)
    assert list(sparse_layers(mamba)) == ["backbone.layers.0.mixer.in_proj"]


@pytest.mark.parametrize("name", ["GCN", "GAT", "GraphSAGE"])
def test_a_graph_network_trains_resets_and_comes_back(name):
    models = pytest.importorskip("torch_geometric.nn")
    model = getattr(models, name)(16, 32, 2, 8)
    dense, x, edges = copy.deepcopy(model), torch.randn(10, 16), torch.randint(0, 10, (2, 40))
    sx.sparsify_(model, 0.5)
    assert {type(layer) for layer in sparse_layers(model).values()} == {SparseGraphLinear}
    model(x, edges).sum().backward()
    model.reset_parameters()
    y = model(x, edges)
    back = sx.densify_(copy.deepcopy(model))
    assert repr(back) == repr(dense)
    torch.testing.assert_close(back(x, edges), y, **CLOSE)
    model.load_state_dict(dense.state_dict())
