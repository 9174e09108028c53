"""Hugging Face: after `import sparse_ext.hf`, `save_pretrained` and `from_pretrained` keep the sparse layers of a model.

    import sparse_ext.hf

    sparsify_(model, 0.9)                             # as of any model
    model.save_pretrained(folder)                     # weights and patterns as they are
    model = AutoModel.from_pretrained(folder)         # the same layers, bit for bit

The file `config.json` says what form the sparse layers have, under `quantization_config`: where transformers looks for weights
that are stored in another form than the model's code expects. Only the file says it: in memory the model is as any other, so
that `Trainer` trains all of it, and a config that several models share describes none of them.

transformers has no hook for models that were converted after they had been made: that of a quantizer takes the place of a
`state_dict` which the caller passes. So importing this module wraps `PreTrainedModel.save_pretrained`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from .nn import sparse_layers
from .nn.form import Form, give_forms_

METHOD = "sparse_ext"
VERSION = 1

if int(transformers.__version__.partition(".")[0]) < 5:
    raise ImportError(f"sparse_ext.hf: expected transformers 5 or newer, got {transformers.__version__}; upgrade transformers")

__all__ = ["SparseConfig", "SparseQuantizer"]


@register_quantization_config(METHOD)
class SparseConfig(QuantizationConfigMixin):
    """The entry `quantization_config` of a model with sparse layers.

    Args:
        layers: {name: form}, the fields of `Form` by name.
        version: of this format.
        quant_method: "sparse_ext", by which transformers finds this class.

    Raises:
        ValueError: a newer sparse_ext wrote the entry, or a form has other fields.
    """

    def __init__(self, layers: dict[str, dict[str, Any]], version: int = VERSION, quant_method: str = METHOD) -> None:
        if version > VERSION:
            raise ValueError(
                f"quantization_config: expected version {VERSION} or older, got {version}: a newer sparse_ext wrote it; "
                "upgrade sparse_ext to load the model"
            )
        for name, form in layers.items():
            if not set(Form._fields) - set(Form._field_defaults) <= form.keys() <= set(Form._fields):
                raise ValueError(f"{name}: expected the fields {', '.join(Form._fields)}, got {', '.join(form)}")
        self.layers, self.version, self.quant_method = layers, version, quant_method

    @classmethod
    def of(cls, model: nn.Module) -> SparseConfig:
        """The entry for this model."""
        return cls({name: Form.of(layer).written() for name, layer in sparse_layers(model).items()})

    def forms(self) -> dict[str, Form]:
        """{name: form} of the layers."""
        return {name: Form(**{**form, "shape": tuple(form["shape"])}) for name, form in self.layers.items()}


@register_quantizer(METHOD)
class SparseQuantizer(HfQuantizer):
    """What `from_pretrained` does for a model with sparse layers. transformers makes it; nobody else need."""

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            raise ValueError(
                "quantization_config: expected a checkpoint whose config.json has this entry, got one without; load a dense "
                "checkpoint without it, then call sparse_ext.sparsify_(model, sparsity)"
            )

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        """Makes the layers sparse, still on "meta"; transformers then loads each tensor by its name.

        A model of another class has other names, or a head of another shape: what it lacks transformers reports as unexpected,
        and a layer that stays dense as one that mismatches.
        """
        modules, forms = dict(model.named_modules()), self.quantization_config.forms()
        named = {_name_in(modules, name, model.base_model_prefix): form for name, form in forms.items()}
        give_forms_(model, {name: form for name, form in named.items() if name is not None and form.fits(modules[name])})

    def postprocess_model(self, model: Any, **kwargs: Any) -> None:
        """Checks and binds what was loaded, and takes away what marks the model as a quantized one."""
        for name, layer in sparse_layers(model).items():
            _complete(name, layer)
        del model.hf_quantizer, model.quantization_method, model.is_quantized, model.config.quantization_config


def _name_in(names: Any, name: str, prefix: str) -> str | None:
    """The name under which the model has a layer of a checkpoint, which may be that of its base model, or of one around it."""
    candidates = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((one for one in candidates if one in names), None)


def _complete(name: str, layer: Any) -> None:
    """Derives the layer from its tensors; ValueError if one is missing, elsewhere, or not valid."""
    tensors = layer.state_dict(keep_vars=True)
    for key, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f'{name}.{key}: expected a tensor in memory, got one on "disk"; use a device_map without it')
        if not getattr(tensor, "_is_hf_initialized", False):  # transformers marks what it has loaded
            raise ValueError(f"{name}.{key}: expected a tensor of shape {tuple(tensor.shape)} in the checkpoint, got none")
    # Copies, as transformers maps the file into memory: kernels would copy at every call what is not aligned.
    own = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    try:
        layer.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{name}: {error}") from error


_save_pretrained = PreTrainedModel.save_pretrained


@wraps(_save_pretrained)
def _save_with_forms(self: Any, *args: Any, **kwargs: Any) -> Any:
    if sparse_layers(self):
        # The original format of some models joins the weights of several layers, as only dense ones can be told apart again.
        kwargs.setdefault("save_original_format", False)
    with _described(self):
        return _save_pretrained(self, *args, **kwargs)


@contextmanager
def _described(model: Any) -> Iterator[None]:
    """For as long as it is open, the model's config has the entry, if the model has sparse layers."""
    given = getattr(model.config, "quantization_config", None)
    method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", METHOD)
    sparse = bool(sparse_layers(model))
    if sparse and method != METHOD:
        raise ValueError(
            f"save_pretrained: expected sparse layers in a model that is not quantized, got one that {method} quantizes; "
            "densify_ a model before it is quantized"
        )
    if method == METHOD and hasattr(model.config, "quantization_config"):  # of the checkpoint whose config was taken
        del model.config.quantization_config
    if sparse:
        model.config.quantization_config = SparseConfig.of(model)
    try:
        yield
    finally:
        if sparse:
            del model.config.quantization_config


PreTrainedModel.save_pretrained = _save_with_forms
