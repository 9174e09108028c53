"""Loops that trainers own: one line, `Sparsifier(...).attach()`, trains as the plain loop does, and resumes bit for bit.

Every trainer takes the same batches, 12 of them, and two make a step where it accumulates.
"""

import warnings

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

BATCHES, SIZE, FEATURES, CLASSES = 12, 8, 12, 4
METHODS = {"rigl": ("csr", sx.RigL(update_interval=2, t_end=1.0)), "fst": ("2:4", sx.FST(refresh_interval=2, dense_tail=0.2))}
LOSS = nn.functional.cross_entropy

every_method = pytest.mark.parametrize("method", METHODS)
every_accumulation = pytest.mark.parametrize("accumulate", [1, 2])


@pytest.fixture(autouse=True)
def ours_would_be_errors():
    """A trainer's loop is right: nothing of sparse_ext warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r".*(step\(\)|Sparsifier|loaded state)")
        yield


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return BATCHES * SIZE

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(FEATURES, generator=generator), index % CLASSES


def loader():
    return torch.utils.data.DataLoader(Data(), batch_size=SIZE)


def build(method, accumulate=1, seed=0, attached=True, **kwargs):
    torch.manual_seed(seed)
    layout, chosen = METHODS[method]
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    sx.sparsify_(model, layout=layout, method=chosen)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = sx.Sparsifier(model, optimizer, chosen, total_steps=BATCHES // accumulate)
    return model, optimizer, sparsifier.attach() if attached else sparsifier


def outcome(model, optimizer):
    found = dict(model.state_dict())
    for index, state in optimizer.state_dict()["state"].items():
        found |= {f"{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def plain(method, accumulate=1):
    """The plain loop, with `step()` by hand."""
    model, optimizer, sparsifier = build(method, accumulate, attached=False)
    before = [layer.mask() for layer in sparse_layers(model).values()]
    for number, (x, y) in enumerate(loader(), 1):
        (LOSS(model(x), y) / accumulate).backward()
        if number % accumulate == 0:
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
    assert any(not torch.equal(layer.mask(), mask) for layer, mask in zip(sparse_layers(model).values(), before, strict=True))
    return outcome(model, optimizer)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(actual[name], value)]


# ---- Hugging Face ---------------------------------------------------------------------------------------------------------


@every_accumulation
@every_method
def test_hugging_face(method, accumulate, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class WithLoss(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, labels):
            return {"loss": LOSS(self.inner(x), labels)}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(Data())

    def trainer(seed):
        model, optimizer, _ = build(method, accumulate, seed)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=SIZE, gradient_accumulation_steps=accumulate,
            max_steps=BATCHES // accumulate, save_steps=3, report_to="none", use_cpu=True, max_grad_norm=0.0,
            lr_scheduler_type="constant", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        return model, optimizer, InOrder(
            WithLoss(model), arguments, train_dataset=Data(), optimizers=(optimizer, None),
            data_collator=lambda rows: {"x": torch.stack([x for x, _ in rows]), "labels": torch.tensor([y for _, y in rows])},
        )  # fmt: skip

    expected = plain(method, accumulate)
    model, optimizer, straight = trainer(0)
    straight.train()
    assert_same(outcome(model, optimizer), expected)
    model, optimizer, again = trainer(1)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(outcome(model, optimizer), expected)


# ---- accelerate -----------------------------------------------------------------------------------------------------------


@every_accumulation
@every_method
def test_accelerate(method, accumulate, tmp_path):
    accelerate = pytest.importorskip("accelerate")

    def run(seed, batches, resume):
        model, optimizer, _ = build(method, accumulate, seed)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        prepared, wrapped, data = accelerator.prepare(model, optimizer, loader())
        if resume:
            accelerator.load_state(str(tmp_path))
        for number, (x, y) in enumerate(data):
            if number in batches:
                with accelerator.accumulate(prepared):
                    accelerator.backward(LOSS(prepared(x), y))
                    wrapped.step()
                    wrapped.zero_grad()
        accelerator.save_state(str(tmp_path))
        return outcome(model, optimizer)

    expected = plain(method, accumulate)
    assert_same(run(0, range(BATCHES), resume=False), expected)
    run(0, range(6), resume=False)
    assert_same(run(1, range(6, BATCHES), resume=True), expected)


# ---- Lightning and Fabric -------------------------------------------------------------------------------------------------


def lightning():
    pytest.importorskip("lightning")
    import lightning

    return lightning


class Part(torch.utils.data.IterableDataset):
    """Two batches in each epoch, others in the next."""

    def __init__(self, start):
        self.next = start

    def __iter__(self):
        rows = list(loader())[self.next : self.next + 2]
        self.next += 2
        return iter(rows)


def part(start):
    return torch.utils.data.DataLoader(Part(start), batch_size=None)


@every_accumulation
@every_method
def test_lightning(method, accumulate, tmp_path):
    package = lightning()

    class Module(package.LightningModule):
        def __init__(self, seed):
            super().__init__()
            self.inner, self.chosen, _ = build(method, accumulate, seed)

        def training_step(self, batch, _):
            x, y = batch
            return LOSS(self.inner(x), y)

        def configure_optimizers(self):
            return self.chosen

    def trainer(batches):
        return package.Trainer(
            accelerator="cpu", devices=1, max_epochs=batches, limit_train_batches=2, accumulate_grad_batches=accumulate,
            logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            default_root_dir=tmp_path,
        )  # fmt: skip

    expected = plain(method, accumulate)
    module, whole = Module(0), trainer(6)
    whole.fit(module, part(0))
    assert_same(outcome(module.inner, module.chosen), expected)
    module, half = Module(0), trainer(3)
    half.fit(module, part(0))
    half.save_checkpoint(tmp_path / "half.ckpt")
    module = Module(1)
    trainer(6).fit(module, part(6), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert_same(outcome(module.inner, module.chosen), expected)


@every_method
def test_fabric(method, tmp_path):
    package = lightning()

    def run(seed, batches, resume):
        model, optimizer, _ = build(method, seed=seed)
        fabric = package.Fabric(accelerator="cpu", devices=1)
        fabric.launch()
        wrapped, stepping = fabric.setup(model, optimizer)
        state = {"model": wrapped, "optimizer": stepping}
        if resume:
            fabric.load(tmp_path / "state", state)
        for number, (x, y) in enumerate(loader()):
            if number in batches:
                fabric.backward(LOSS(wrapped(x), y))
                stepping.step()
                stepping.zero_grad()
        fabric.save(tmp_path / "state", state)
        return outcome(model, optimizer)

    expected = plain(method)
    assert_same(run(0, range(BATCHES), resume=False), expected)
    run(0, range(6), resume=False)
    assert_same(run(1, range(6, BATCHES), resume=True), expected)


# ---- skorch ---------------------------------------------------------------------------------------------------------------


@every_method
def test_skorch(method, tmp_path):
    skorch = pytest.importorskip("skorch")

    class Net(skorch.NeuralNet):
        def initialize_optimizer(self, *_, **__):
            self.optimizer_ = torch.optim.AdamW(self.module_.parameters(), lr=0.01)
            sx.Sparsifier(self.module_, self.optimizer_, METHODS[method][1], total_steps=BATCHES).attach()
            return self

    def net(seed):
        return Net(
            build(method, seed=seed)[0], nn.CrossEntropyLoss, max_epochs=1, batch_size=SIZE, train_split=None, verbose=0
        )  # fmt: skip

    rows = [Data()[index] for index in range(BATCHES * SIZE)]
    x, y = torch.stack([one for one, _ in rows]).numpy(), torch.tensor([label for _, label in rows]).numpy()
    half = len(y) // 2

    expected = plain(method)
    one = net(0).fit(x, y)
    assert_same(outcome(one.module_, one.optimizer_), expected)
    one = net(0).fit(x[:half], y[:half])
    one.save_params(f_params=tmp_path / "weights", f_optimizer=tmp_path / "moments")
    other = net(1).initialize()
    other.load_params(f_params=tmp_path / "weights", f_optimizer=tmp_path / "moments")
    other.partial_fit(x[half:], y[half:])
    assert_same(outcome(other.module_, other.optimizer_), expected)
