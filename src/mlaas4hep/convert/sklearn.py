"""scikit-learn through skops: linear models, networks, trees, forests and boosting, alone or behind scalers.

Written as graphs here, in float64 and rounded once, and held against scikit-learn itself. Invariant: skops makes
objects of listed types only; what has no word in the graph is refused by the name of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mlaas4hep.convert.made import (
    INPUT,
    OUTPUT,
    SCORE_BAR,
    VALUE_BAR,
    Arrays,
    Asked,
    Made,
    flat_rows,
    of_core,
    versions_of,
)
from mlaas4hep.convert.trees import require_width
from mlaas4hep.errors import MissingExtraError, UploadError, nearest
from mlaas4hep.graph.builder import GraphBuilder, value_info
from mlaas4hep.graph.core import FLAT_INPUT, Core, Link
from mlaas4hep.graph.dense import add_link
from mlaas4hep.graph.trees import Tree, lower_trees
from mlaas4hep.spec.scaling import Scaler

# Types of scikit-learn's own that skops does not know yet; plain data.
_TRUSTED = frozenset(
    {
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.LogLink",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.HalfLogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss.loss.ExponentialLoss",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.HuberLoss",
        "sklearn._loss._loss.CyAbsoluteError",
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss._loss.CyHalfMultinomialLoss",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn._loss._loss.CyExponentialLoss",
        "sklearn._loss._loss.CyHuberLoss",
        "sklearn.tree._tree.Tree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    }
)
_DOUBLE, _FLOAT = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": "Identity"}


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A final estimator as a core behind nothing, and how it is asked."""

    core: Core
    link: Link
    predict: Callable[[Any, NDArray[np.float64]], NDArray[np.float64]]


def convert_skops(path: Path, asked: Asked) -> Made:
    """A scikit-learn model."""
    estimator = _loaded(path)
    steps = [step for _, step in estimator.steps] if type(estimator).__name__ == "Pipeline" else [estimator]
    steps = [step for step in steps if not isinstance(step, str)]  # 'passthrough'
    final, scalers = steps[-1], steps[:-1]
    width = int(getattr(steps[0], "n_features_in_", 0))
    if not width:
        raise UploadError(f"{type(steps[0]).__name__} was not fitted: it does not know its inputs")
    model = _word(_MODELS, final)(final, width)
    core = _behind(scalers, model.core, width)

    def reference(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = model.predict(estimator, rows.astype(np.float64))
        return found

    missing = _takes_missing(reference, width)
    common: dict[str, Any] = {
        "framework": "scikit-learn",
        "converter": "own lowering of scikit-learn's estimators, in float64",
        "versions": versions_of("scikit-learn", "skops"),
        "bar": VALUE_BAR if model.link == "identity" else SCORE_BAR,
        "notes": _notes(final),
    }
    if asked.spec is None:
        rows = flat_rows(width, thresholds=None if scalers else core.thresholds, missing=missing)
        return Made(model=of_core(core), reference=_by_name(reference), rows=rows, **common)
    require_width(width, asked)
    scaler = Scaler(asked.spec.scaling)
    view = scaler.native if core.missing == "native" else scaler.flat
    return Made(core=core, core_reference=lambda groups: reference(view(groups)), **common)


def _by_name(reference: Callable[[NDArray[np.float32]], NDArray[np.float64]]) -> Callable[[Arrays], Arrays]:
    return lambda inputs: {OUTPUT: reference(inputs[INPUT])}


def _notes(final: Any) -> tuple[str, ...]:
    classes = getattr(final, "classes_", None)
    if classes is None:
        return ()
    names = ", ".join(map(str, classes[1:] if len(classes) == 2 else classes))
    return (f"scores: the probability of class {names}",)


def _loaded(path: Path) -> Any:
    try:
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException
    except ImportError as error:
        raise MissingExtraError("skops", "skops", "a scikit-learn model") from error
    try:
        unknown = set(skops.io.get_untrusted_types(file=path))
        if strange := sorted(unknown - _TRUSTED):
            raise UploadError(
                f"the skops file makes objects of {', '.join(strange[:5])}, which are not on the list of types that "
                "are known to be plain data; save an estimator of scikit-learn itself"
            )
        return skops.io.load(path, trusted=sorted(unknown))
    except UploadError:
        raise
    except UntrustedTypesFoundException as error:
        raise UploadError(f"the skops file holds types that are not trusted: {error}") from error
    except Exception as error:  # skops lets through what its nodes raise on damaged files
        raise UploadError(f"the skops file cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _word(words: Mapping[str, Any], estimator: Any) -> Any:
    name = type(estimator).__name__
    if name not in words or not type(estimator).__module__.startswith("sklearn."):
        raise UploadError(
            f"scikit-learn's {name} cannot be written as a graph yet{nearest(name, words)}; known: "
            f"{', '.join(sorted(words))}, behind {', '.join(sorted(_SCALERS))}"
        )
    return words[name]


def _takes_missing(reference: Callable[[NDArray[np.float32]], Any], width: int) -> bool:
    try:
        reference(np.full((1, width), np.nan, np.float32))
    except ValueError:
        return False
    return True


def _probabilities(estimator: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """One column for two classes, that of the last."""
    found = np.asarray(estimator.predict_proba(rows), np.float64)
    return found[:, 1:] if found.shape[1] == 2 else found


def _values(estimator: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(estimator.predict(rows), np.float64).reshape(len(rows), -1)


# Scalers: value -> value, in float64 and in scikit-learn's own order of operations.


def _standard(graph: GraphBuilder, value: str, step: Any) -> str:
    if step.with_mean:
        value = graph.node("Sub", [value, graph.constant(np.asarray(step.mean_, np.float64))])
    return _divided(graph, value, step.scale_ if step.with_std else None)


def _min_max(graph: GraphBuilder, value: str, step: Any) -> str:
    value = graph.node("Mul", [value, graph.constant(np.asarray(step.scale_, np.float64))])
    value = graph.node("Add", [value, graph.constant(np.asarray(step.min_, np.float64))])
    if step.clip:
        low, high = (graph.constant(np.float64(bound)) for bound in step.feature_range)
        return graph.node("Clip", [value, low, high])
    return value


def _max_abs(graph: GraphBuilder, value: str, step: Any) -> str:
    if getattr(step, "clip", False):
        raise UploadError("MaxAbsScaler(clip=True) cannot be written as a graph yet")
    return _divided(graph, value, step.scale_)


def _robust(graph: GraphBuilder, value: str, step: Any) -> str:
    if step.with_centering:
        value = graph.node("Sub", [value, graph.constant(np.asarray(step.center_, np.float64))])
    return _divided(graph, value, step.scale_ if step.with_scaling else None)


def _divided(graph: GraphBuilder, value: str, scale: Any) -> str:
    if scale is None:
        return value
    return graph.node("Div", [value, graph.constant(np.asarray(scale, np.float64))])


_SCALERS: Mapping[str, Callable[[GraphBuilder, str, Any], str]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": _robust,
}


def _behind(scalers: Sequence[Any], core: Core, width: int) -> Core:
    """A core behind scalers. The first node of each core casts its input to float64: it is given the scaled value."""
    if not scalers:
        return core
    graph = GraphBuilder("s")
    value = graph.node("Cast", [FLAT_INPUT], attributes={"to": _DOUBLE})
    for step in scalers:
        value = _word(_SCALERS, step)(graph, value, step)
    model = onnx.ModelProto.FromString(core.model)
    first = model.graph.node[0]
    first.input[0] = value
    nodes = [*graph.nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(graph.constants)
    data = model.SerializeToString(deterministic=True)
    return Core(data, core.layout, core.missing, core.output, core.columns, None)


# Final estimators.


def _dense(layers: Sequence[tuple[Any, Any]], activation: str, link: Link, width: int) -> Core:
    """A chain of matrices in float64."""
    graph = GraphBuilder("d")
    value = graph.node("Cast", [FLAT_INPUT], attributes={"to": _DOUBLE})
    for index, (matrix, bias) in enumerate(layers):
        if index:
            value = graph.node(_ACTIVATIONS[activation], [value])
        product = graph.node("MatMul", [value, graph.constant(np.asarray(matrix, np.float64))])
        value = graph.node("Add", [product, graph.constant(np.asarray(bias, np.float64).reshape(-1))])
    score = graph.node("Cast", [add_link(graph, value, link)], attributes={"to": _FLOAT})
    size = np.asarray(layers[-1][0]).shape[1]
    model = graph.model([value_info(FLAT_INPUT, np.float32, [width])], [value_info(score, np.float32, [size])])
    data = model.SerializeToString(deterministic=True)
    return Core(data, "flat", "impute", score, tuple(range(size)))


def _linear(estimator: Any, width: int) -> _Model:
    matrix = np.atleast_2d(np.asarray(estimator.coef_, np.float64)).T
    bias = np.broadcast_to(np.atleast_1d(np.asarray(estimator.intercept_, np.float64)), (matrix.shape[1],))
    return _Model(_dense([(matrix, bias)], "identity", "identity", width), "identity", _values)


def _logistic(estimator: Any, width: int) -> _Model:
    if len(estimator.classes_) > 2 and estimator.solver == "liblinear":
        raise UploadError("LogisticRegression(solver='liblinear') of several classes cannot be written as a graph yet")
    link: Link = "sigmoid" if len(estimator.classes_) == 2 else "softmax"
    core = _dense([(estimator.coef_.T, estimator.intercept_)], "identity", link, width)
    return _Model(core, link, _probabilities)


def _network(estimator: Any, width: int) -> _Model:
    links: dict[str, Link] = {"logistic": "sigmoid", "softmax": "softmax", "identity": "identity"}
    link = links[estimator.out_activation_]
    core = _dense(list(zip(estimator.coefs_, estimator.intercepts_, strict=True)), estimator.activation, link, width)
    return _Model(core, link, _values if link == "identity" else _probabilities)


def _nodes(tree: Any, values: NDArray[np.float64], output: int = 0) -> Tree:
    """scikit-learn's node arrays; ``values`` [n] or [n, C]."""
    left = np.asarray(tree.children_left, np.int64)
    leaf = left < 0
    missing = getattr(tree, "missing_go_to_left", None)
    return Tree(
        feature=np.where(leaf, 0, tree.feature).astype(np.int64),
        threshold=np.where(leaf, 0.0, tree.threshold).astype(np.float64),
        left=left,
        right=np.asarray(tree.children_right, np.int64),
        value=values,
        is_leaf=leaf,
        missing_left=np.zeros(len(leaf), np.bool_) if missing is None else np.asarray(missing).astype(np.bool_),
        output=output,
    )


def _forest(estimator: Any, width: int) -> _Model:
    classifies = hasattr(estimator, "classes_")
    trees = [one.tree_ for one in getattr(estimator, "estimators_", [estimator])]
    if estimator.n_outputs_ != 1:
        raise UploadError("forests of several outputs cannot be written as a graph yet")
    outputs = 1 if not classifies or estimator.n_classes_ == 2 else int(estimator.n_classes_)
    lowered = []
    for tree in trees:
        values = np.asarray(tree.value, np.float64)[:, 0, :]
        if classifies:
            values = values / values.sum(axis=1, keepdims=True)
        values = values[:, -outputs:] / len(trees)
        lowered.append(_nodes(tree, values[:, 0] if outputs == 1 else values))
    core = _as_float32_sees(lower_trees(lowered, num_features=width, base=np.zeros(outputs), link="identity"))
    if classifies:
        return _Model(core, "softmax", _probabilities)
    return _Model(core, "identity", _values)


def _as_float32_sees(core: Core) -> Core:
    """These trees compare float32 values, also behind scalers in float64: cast down first."""
    model = onnx.ModelProto.FromString(core.model)
    cast = onnx.helper.make_node("Cast", [FLAT_INPUT], ["f32"], to=_FLOAT)
    model.graph.node[0].input[0] = "f32"
    model.graph.node.insert(0, cast)
    data = model.SerializeToString(deterministic=True)
    return Core(data, core.layout, core.missing, core.output, core.columns, core.thresholds)


def _boosting(estimator: Any, width: int) -> _Model:
    if type(estimator.init_).__name__ not in ("DummyClassifier", "DummyRegressor", "str"):
        raise UploadError(
            f"boosting that begins with {type(estimator.init_).__name__} cannot be written as a graph yet"
        )
    if getattr(estimator, "loss", "") == "exponential":
        raise UploadError("GradientBoostingClassifier(loss='exponential') cannot be written as a graph yet")
    base = np.asarray(estimator._raw_predict_init(np.zeros((1, width), np.float32)), np.float64).reshape(-1)
    rate = float(estimator.learning_rate)
    trees = [
        _nodes(tree.tree_, np.asarray(tree.tree_.value, np.float64)[:, 0, 0] * rate, output)
        for one_round in estimator.estimators_
        for output, tree in enumerate(one_round)
    ]
    link: Link = "identity" if not hasattr(estimator, "classes_") else "sigmoid" if len(base) == 1 else "softmax"
    core = _as_float32_sees(lower_trees(trees, num_features=width, base=base, link=link))
    return _Model(core, link, _values if link == "identity" else _probabilities)


def _histogram_boosting(estimator: Any, width: int) -> _Model:
    from mlaas4hep.backends.sklearn_learners import tree_of

    if getattr(estimator, "is_categorical_", None) is not None and np.any(estimator.is_categorical_):
        raise UploadError("categorical features of histogram boosting cannot be written as a graph yet")
    if not hasattr(estimator, "classes_") and estimator.loss in ("gamma", "poisson"):
        raise UploadError(f"{type(estimator).__name__}(loss='{estimator.loss}') cannot be written as a graph yet")
    base = np.asarray(estimator._baseline_prediction, np.float64).ravel()
    trees = [
        tree_of(predictor.nodes, output)
        for one_round in estimator._predictors
        for output, predictor in enumerate(one_round)
    ]
    link: Link = "identity" if not hasattr(estimator, "classes_") else "sigmoid" if len(base) == 1 else "softmax"
    core = lower_trees(trees, num_features=width, base=base, link=link)
    return _Model(core, link, _values if link == "identity" else _probabilities)


_MODELS: Mapping[str, Callable[[Any, int], _Model]] = {
    **dict.fromkeys(("LinearRegression", "Ridge", "Lasso", "ElasticNet", "SGDRegressor"), _linear),
    "LogisticRegression": _logistic,
    **dict.fromkeys(("MLPClassifier", "MLPRegressor"), _network),
    **dict.fromkeys(
        ("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"), _forest
    ),
    **dict.fromkeys(("DecisionTreeClassifier", "DecisionTreeRegressor"), _forest),
    **dict.fromkeys(("GradientBoostingClassifier", "GradientBoostingRegressor"), _boosting),
    **dict.fromkeys(("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"), _histogram_boosting),
}
