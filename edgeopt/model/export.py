"""From torch to a `Model`: networks that are built from code, and .pt2 programs."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from pydantic import ValidationError
from torch import nn

from edgeopt.errors import UsageError
from edgeopt.model.anchors import Anchors
from edgeopt.model.frozen import freeze_all_but, parameter_names
from edgeopt.model.load import check_finite, tidy
from edgeopt.model.model import Meta, Model, Preprocess
from edgeopt.usercode import call_user_code, import_function

__all__ = ["export_module", "load_module", "load_program"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def export_module(
    module: nn.Module,
    example: torch.Tensor | Mapping[str, torch.Tensor],
    meta: Meta | None = None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Model:
    """Export `module` with a dynamic batch. `example` is one batch of at least 2 ([n, C, H, W] for images), or one for
    each input by the name of the argument of `forward`.

    `dynamic_axes` names further dynamic dims, input name -> {axis: name}; inputs that it does not name have axis 0 as
    "batch". BatchNormalization stays a node and initializers carry the names of the module's state dict.
    Raises UsageError when torch cannot export it.
    """
    training = module.training
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else ((example,), {})
    axes = {name: (dynamic_axes or {}).get(name, {0: "batch"}) for name in kwargs or ("input",)}
    dims = {symbol: torch.export.Dim(symbol, min=1) for named in axes.values() for symbol in named.values()}
    shapes = {name: {axis: dims[symbol] for axis, symbol in named.items()} for name, named in axes.items()}
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                args,
                kwargs=kwargs,
                dynamo=True,
                optimize=False,
                verbose=False,
                input_names=list(axes),
                output_names=None if kwargs else ["output"],
                dynamic_shapes=shapes if kwargs else tuple(shapes.values()),
            )
    except Exception as error:  # torch.export raises whatever the network's code provokes
        raise UsageError(
            f"{type(module).__name__} cannot be exported ({_first_line(error)})",
            fix="export it to ONNX yourself and give the .onnx file",
        ) from error
    finally:
        module.train(training)
    assert program is not None
    return _clean(program.model, meta or Meta())


def load_program(path: Path) -> Model:
    """A program saved by `torch.export.save`. Raises UsageError."""
    if not path.is_file():
        raise UsageError("no such file", where=str(path))
    try:
        with _quiet():
            program = torch.export.load(path)
            exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    except Exception as error:  # a damaged archive fails in many ways
        raise UsageError(
            f"is not a program that torch.export.save wrote ({_first_line(error)})", where=str(path)
        ) from error
    assert exported is not None
    return check_finite(_clean(exported.model, Meta()), str(path))


def load_module(reference: str, weights: str | None, settings: dict[str, Any], seed: int) -> Model:
    """Build the network that `reference` names, give it its weights, export it. Raises UsageError."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _load_module(reference, weights, settings)


def _load_module(reference: str, weights: str | None, settings: dict[str, Any]) -> Model:
    scheme, _, name = reference.rpartition(":")
    build = {"torchvision": _torchvision, "timm": _timm, "edgeopt": _edgeopt}.get(scheme)
    published = weights is None or weights == "default"
    if build is not None:
        module, example, meta = build(name, published, settings)
    else:
        module, example, meta = _factory(reference, settings)
    if weights is not None and weights not in ("none", "default"):
        _load_weights(module, Path(weights))
    meta = meta.model_copy(update={"provenance": {"source": reference}})
    try:
        model = export_module(module, example, meta, getattr(module, "dynamic_axes", None))
    except UsageError as error:
        raise UsageError(error.found, where=reference, fix=error.fix) from error
    return check_finite(model, reference)


Built = tuple[nn.Module, torch.Tensor | dict[str, torch.Tensor], Meta]
"""A network, one batch of two for it (or one for each of its inputs), and what is known about it."""


def _torchvision(name: str, published: bool, settings: dict[str, Any]) -> Built:
    import torchvision

    if name not in torchvision.models.list_models():
        raise UsageError(f"torchvision has no model {name!r}", fix="see torchvision.models.list_models()")
    settings = dict(settings)
    size = _take_size(settings, f"torchvision:{name}")
    best = torchvision.models.get_model_weights(name).DEFAULT
    categories = tuple(best.meta.get("categories", ()))
    changed = settings.get("num_classes", len(categories)) != len(categories)
    if not published and "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters:
        settings.setdefault("weights_backbone", None)  # its default is a download
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a download announces itself; stdout is for results
            module = torchvision.models.get_model(name, weights=best if published and not changed else None, **settings)
    except OSError as error:
        raise _no_download(f"torchvision:{name}", error) from error
    except (TypeError, ValueError) as error:
        raise UsageError(str(error), where=f"torchvision:{name} settings") from error
    if isinstance(module, torchvision.models.detection.ssd.SSD):
        from edgeopt.model.detectors import describe

        heads, meta = describe(module, size, () if changed else categories)
        assert meta.anchors is not None
        return heads, torch.zeros(2, 3, *meta.anchors.size), meta
    transforms = best.transforms()
    crop = getattr(transforms, "crop_size", [224])[0]
    crop = min(crop, 384) if size is None else size
    resize = getattr(transforms, "resize_size", [crop])[0]
    preprocess = Preprocess(
        size=(crop, crop),
        resize=resize if size is None else None,
        mean=tuple(getattr(transforms, "mean", IMAGENET_MEAN)),
        std=tuple(getattr(transforms, "std", IMAGENET_STD)),
    )
    labels = () if changed else categories
    return module, torch.zeros(2, 3, crop, crop), Meta(preprocess=preprocess, labels=labels)


def _timm(name: str, published: bool, settings: dict[str, Any]) -> Built:
    try:
        import timm
    except ImportError as error:
        raise UsageError("timm is not installed", where=f"timm:{name}", fix="pip install 'edgeopt[timm]'") from error
    settings = dict(settings)
    size = _take_size(settings, f"timm:{name}")
    published = published and "num_classes" not in settings
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}", fix="see timm.list_models()")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = timm.create_model(name, pretrained=published, exportable=True, **settings)
    except (OSError, RuntimeError) as error:
        raise _no_download(f"timm:{name}", error) from error
    except (TypeError, ValueError) as error:
        raise UsageError(str(error), where=f"timm:{name} settings") from error
    config = timm.data.resolve_data_config({}, model=module)
    channels, height, width = config["input_size"]
    height, width = (size, size) if size else (height, width)
    preprocess = Preprocess(
        size=(height, width),
        resize=None if size else round(height / config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        color="gray" if channels == 1 else "rgb",
    )
    return module, torch.zeros(2, channels, height, width), Meta(preprocess=preprocess)


def _take_size(settings: dict[str, Any], where: str) -> int | None:
    """The setting `size`, taken out: pixels of the square input; None: the network's own. Raises UsageError."""
    size = settings.pop("size", None)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise UsageError(
            f"size is {size!r}", where=f"{where} settings", fix="give a whole number of pixels, such as 64"
        )
    return size


def _edgeopt(name: str, published: bool, settings: dict[str, Any]) -> Built:
    import edgeopt.networks as networks

    if name not in networks.__all__:
        raise UsageError(f"edgeopt has no network {name!r}", fix=f"choose one of {', '.join(networks.__all__)}")
    return _build(getattr(networks, name), settings, f"edgeopt:{name}")


def _factory(reference: str, settings: dict[str, Any]) -> Built:
    return _build(import_function(reference), settings, reference)


def _build(function: Callable[..., Any], settings: dict[str, Any], where: str) -> Built:
    """Call a factory; the module it returns says its input as `input_shape` (C, H, W), or as `example_inputs` (argument
    of forward -> tensor, a batch of two or more) with `dynamic_axes` (argument -> {axis: name}) where it likes.
    """
    module = call_user_code(lambda: function(**settings), where=where)
    if not isinstance(module, nn.Module):
        raise UsageError(f"returned {type(module).__name__}, not a torch.nn.Module", where=where)
    inputs = getattr(module, "example_inputs", None)
    if isinstance(inputs, dict) and inputs and all(isinstance(value, torch.Tensor) for value in inputs.values()):
        return module, inputs, Meta(task="other")
    shape = getattr(module, "input_shape", None)
    if not (isinstance(shape, list | tuple) and len(shape) == 3 and all(isinstance(n, int) for n in shape)):
        raise UsageError(
            "the module does not say what its input is",
            where=where,
            fix="set `module.input_shape = (channels, height, width)` before returning it, or "
            "`module.example_inputs = {name: tensor}` for several inputs",
        )
    return module, torch.zeros(2, *shape), _detection(getattr(module, "anchors", None), where)


def _detection(anchors: object, where: str) -> Meta:
    """What a module that has `anchors` (the fields of `Anchors`, as a dict) says of itself."""
    if not isinstance(anchors, dict):
        return Meta()
    try:
        return Meta(task="detection", anchors=Anchors.model_validate(anchors))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("anchors", *first["loc"])))
        raise UsageError(f"{key}: {first['msg']}", where=where, fix="see edgeopt.model.anchors.Anchors") from error


def _load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict; names and shapes have to match, a `module.` prefix and a wrapping dict are forgiven."""
    state = _read_state(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {name.removeprefix("module."): value for name, value in state.items()}
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    for names, what in (
        (shapes, "have another shape"),
        (missing, "are missing"),
        (unknown, "are not in the network"),
    ):
        if names:
            raise UsageError(
                f"does not fit {type(module).__name__}: {len(names)} tensors {what} ({', '.join(names[:3])} ...)",
                where=str(path),
            )
    module.load_state_dict(state, strict=False)


def _read_state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError("no such file", where=str(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no archive is a pickle to torch, and fails as one
        raise UsageError(
            f"cannot be read as a state dict ({type(error).__name__}: {_first_line(error)})",
            where=str(path),
            fix="save it with torch.save(module.state_dict(), path) or as .safetensors",
        ) from error
    if not isinstance(state, dict):
        raise UsageError("holds no state dict", where=str(path), fix="save module.state_dict()")
    return state


def _clean(exported: ir.Model, meta: Meta) -> Model:
    """Fold what is constant, keep BatchNormalization, drop what the exporter left behind."""
    from onnxscript import optimizer

    state, weights = dict(exported.graph.initializers), parameter_names(exported)
    tensors = {name: value.const_value for name, value in state.items()}
    for value in state.values():  # hidden, so that what is computed from the state stays computed, and trainable
        value.const_value = None
    with _quiet():
        optimizer.fold_constants(exported, onnx_shape_inference=False)
    for name, value in state.items():
        value.const_value = tensors[name]
    ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(exported)
    exported.metadata_props.clear()
    exported.graph.metadata_props.clear()
    tidied = tidy(Model(exported, meta))
    _drop_invented_biases(tidied.graph, set(state))
    freeze_all_but(tidied.graph, weights)
    return tidied


def _drop_invented_biases(graph: ir.Model, parameters: set[str]) -> None:
    """The exporter gives a Conv without bias a zero one; the torch module has none, so neither has the graph."""
    for node in graph.graph:
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 3:
            continue
        bias = node.inputs[2]
        if bias is None or bias.name in parameters or bias.const_value is None:
            continue
        if not bias.const_value.numpy().any():
            node.resize_inputs(2)
    passes.RemoveUnusedNodesPass()(graph)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own insides; none of it is the user's business."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(previous)


def _no_download(reference: str, error: Exception) -> UsageError:
    return UsageError(
        f"its published weights could not be downloaded ({_first_line(error)})",
        where=reference,
        fix="give a file with --weights x.pt, or --weights none for random ones",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
