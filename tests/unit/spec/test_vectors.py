"""Four-vectors in expressions: against the package ``vector``, near the limits of floats, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import DataError, ExpressionError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, kind_of
from mlaas4hep.spec.expressions import Expression

vector = pytest.importorskip("vector", reason="four-vectors are compared with the package 'vector'")


def make_events(events: int, seed: int = 3) -> dict[str, Column]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, events)
    size = int(counts.sum())

    def lists(values: Any) -> Jagged:
        return Jagged.from_counts(counts, np.asarray(values))

    pt, eta, phi = rng.exponential(60, size), rng.normal(0, 2, size), rng.uniform(-np.pi, np.pi, size)
    mass = rng.exponential(5, size)
    p4 = vector.array({"pt": pt, "eta": eta, "phi": phi, "mass": mass})
    return {
        "Jet_pt": lists(pt),
        "Jet_eta": lists(eta),
        "Jet_phi": lists(phi),
        "Jet_mass": lists(mass),
        "Jet_btag": lists(rng.random(size)),
        "part.px": lists(p4.px),
        "part.py": lists(p4.py),
        "part.pz": lists(p4.pz),
        "part.E": lists(p4.E),
        "lep_pt": rng.exponential(40, events),
        "lep_eta": rng.normal(0, 1, events),
        "lep_phi": rng.uniform(-np.pi, np.pi, events),
        "lep_e": np.full(events, 900.0),
        "MET_pt": rng.exponential(30, events),
        "MET_phi": rng.uniform(-np.pi, np.pi, events),
    }


EVENTS = 200
COLUMNS = make_events(EVENTS)
TYPES = {
    name: ColumnType(kind_of(column), column.dtype.name)  # type: ignore[arg-type]
    for name, column in COLUMNS.items()
}


def run(text: str, columns: dict[str, Column] = COLUMNS, events: int = EVENTS) -> Any:
    return Expression.parse(text).evaluate(columns, events)


def objects(event: int) -> list[Any]:
    parts = [COLUMNS[f"Jet_{name}"][event : event + 1].tolist()[0] for name in ("pt", "eta", "phi", "mass")]
    return [vector.obj(pt=pt, eta=eta, phi=phi, mass=mass) for pt, eta, phi, mass in zip(*parts, strict=True)]


def lepton(event: int) -> Any:
    pt, eta, phi, energy = (COLUMNS[f"lep_{one}"][event] for one in ("pt", "eta", "phi", "e"))
    return vector.obj(pt=pt, eta=eta, phi=phi, E=energy)


def btag(event: int) -> list[float]:
    return COLUMNS["Jet_btag"][event : event + 1].tolist()[0]  # type: ignore[no-any-return]


def tagged(event: int, jets: list[Any]) -> list[Any]:
    return [jet for _, jet in sorted(zip(btag(event), jets, strict=True), key=lambda one: -one[0])]


def met(event: int) -> Any:
    return vector.obj(pt=COLUMNS["MET_pt"][event], phi=COLUMNS["MET_phi"][event])


NOTHING = vector.obj(px=0.0, py=0.0, pz=0.0, E=0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mass(Jet[0] + Jet[1])", lambda e, j: (j[0] + j[1]).mass if len(j) > 1 else math.nan),
        ("mass(part[0] + part[1] + part[2])", lambda e, j: (j[0] + j[1] + j[2]).mass if len(j) > 2 else math.nan),
        ("mass(Jet[0] - Jet[1])", lambda e, j: (j[0] - j[1]).mass if len(j) > 1 else math.nan),
        ("mass(sum(Jet))", lambda e, j: sum(j, NOTHING).mass),
        ("pt(sum(Jet[Jet_pt > 30][:4]))", lambda e, j: sum([one for one in j if one.pt > 30][:4], NOTHING).pt),
        ("energy(sum(part))", lambda e, j: sum(j, NOTHING).E),
        ("pz(sum(Jet))", lambda e, j: sum(j, NOTHING).pz),
        ("p(Jet[0])", lambda e, j: j[0].p if j else math.nan),
        ("px(Jet[-1])", lambda e, j: j[-1].px if j else math.nan),
        ("eta(Jet[0] + Jet[1])", lambda e, j: (j[0] + j[1]).eta if len(j) > 1 else math.nan),
        ("phi(Jet[0] + Jet[1])", lambda e, j: (j[0] + j[1]).phi if len(j) > 1 else math.nan),
        ("rapidity(part[0])", lambda e, j: j[0].rapidity if j else math.nan),
        ("deltaR(Jet[0], Jet[1])", lambda e, j: j[0].deltaR(j[1]) if len(j) > 1 else math.nan),
        ("deltaeta(Jet[0], lep)", lambda e, j: j[0].eta - lepton(e).eta if j else math.nan),
        ("deltaphi(Jet[0], lep)", lambda e, j: j[0].deltaphi(lepton(e)) if j else math.nan),
        ("mass(lep)", lambda e, j: lepton(e).mass),
        ("mass(lep + Jet[0])", lambda e, j: (lepton(e) + j[0]).mass if j else math.nan),
        ("deltaphi(MET, Jet[0])", lambda e, j: met(e).deltaphi(j[0]) if j else math.nan),
        (
            "mass(transverse(MET) + transverse(lep))",
            lambda e, j: math.sqrt(
                2 * COLUMNS["MET_pt"][e] * lepton(e).pt * (1 - math.cos(COLUMNS["MET_phi"][e] - lepton(e).phi))
            ),
        ),
        (
            "mass(sort(Jet, -Jet_btag)[0] + sort(Jet, -Jet_btag)[1])",
lambda e, j: sum(tagged(e, j)[:2], NOTHING).mass if len(j) > 1 else math.nan,
        ),
        ("pt(Jet[argmax(Jet_btag)])", lambda e, j: j[int(np.argmax(btag(e)))].pt if j else math.nan),
        ("mass(massless(Jet[0]) + massless(Jet[1]))", lambda e, j: massless_pair(j) if len(j) > 1 else math.nan),
        ("mass(p4(Jet_pt * 2, Jet_eta, Jet_phi, Jet_mass * 2)[0])", lambda e, j: 2 * j[0].mass if j else math.nan),
    ],
)  # fmt: skip
def test_four_vectors_give_what_the_package_vector_gives(text: str, expected: Any) -> None:
    wanted = [expected(event, objects(event)) for event in range(EVENTS)]
    assert Expression.parse(text).result_type(TYPES) == ColumnType("flat", "float64")
    scale = np.nanmax(np.abs(wanted))
    np.testing.assert_allclose(run(text), wanted, rtol=2e-9, atol=1e-9 * scale)


def massless_pair(jets: list[Any]) -> float:
    first, second = (vector.obj(pt=one.pt, eta=one.eta, phi=one.phi, mass=0.0) for one in jets[:2])
    return (first + second).mass  # type: ignore[no-any-return]


def test_a_list_of_four_vectors_gives_a_list_of_numbers() -> None:
    for text, expected in [
        ("mass(Jet + lep)", lambda jet, event: (jet + lepton(event)).mass),
        ("deltaR(part, lep)", lambda jet, event: jet.deltaR(lepton(event))),
        ("pt(Jet)", lambda jet, event: jet.pt),
    ]:
        assert Expression.parse(text).result_type(TYPES) == ColumnType("jagged", "float64")
        found = run(text)
        assert isinstance(found, Jagged)
        np.testing.assert_array_equal(found.offsets, COLUMNS["Jet_pt"].offsets)  # type: ignore[union-attr]
        wanted = [expected(jet, event) for event in range(EVENTS) for jet in objects(event)]
        np.testing.assert_allclose(found.values, wanted, rtol=1e-9, atol=1e-9)


def pair(angle: float, mass: float, pt: float = 100.0) -> dict[str, Column]:
    """Two particles an event, so far apart in azimuth."""
    return {
        "x_pt": Jagged.from_lists([[pt, pt / 3]], "float64"),
        "x_eta": Jagged.from_lists([[0.7, 0.7]], "float64"),
        "x_phi": Jagged.from_lists([[0.2, 0.2 + angle]], "float64"),
        "x_mass": Jagged.from_lists([[mass, mass]], "float64"),
    }


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
def test_the_mass_of_nearly_collinear_particles_keeps_its_digits(angle: float) -> None:
    """Of massless ones it is 2 sqrt(pt1 pt2) sin(angle / 2); energy minus momentum has nothing left of it at 1e-8."""
    columns = pair(angle, 0.0)
    moved = Fraction(0.2 + angle) - Fraction(0.2)  # the angle that the two numbers have
    expected = 2 * math.sqrt(100.0 * (100.0 / 3)) * math.sin(float(moved) / 2)
    # What is left of the angle in components of order 1 bounds the digits.
    for text in ("mass(x[0] + x[1])", "mass(sum(x))"):
        np.testing.assert_allclose(run(text, columns, 1), [expected], rtol=1e-14 + 4e-16 / angle)


@pytest.mark.parametrize("mass", [0.0, 1e-6, 0.000511, 0.139])
def test_collinear_particles_have_the_sum_of_their_masses_where_they_move_alike(mass: float) -> None:
    columns = pair(0.0, mass)
    columns["x_pt"] = Jagged.from_lists([[1e4, 1e4]], "float64")
    found = float(run("mass(x[0] + x[1])", columns, 1)[0])
    assert found == pytest.approx(2 * mass, rel=1e-9, abs=1e-9)


def test_space_like_vectors_have_negative_mass_as_in_root() -> None:
    columns: dict[str, Column] = {
        "a_px": np.array([3.0, 3.0]),
        "a_py": np.array([0.0, 0.0]),
        "a_pz": np.array([4.0, 4.0]),
        "a_E": np.array([4.0, 13.0]),
        "b_pt": np.array([5.0, 5.0]),
        "b_eta": np.array([0.0, 0.0]),
        "b_phi": np.array([0.0, 0.0]),
        "b_m": np.array([-3.0, 12.0]),
    }
    np.testing.assert_allclose(run("mass(a)", columns, 2), [-3.0, 12.0])
    np.testing.assert_allclose(run("mass(b)", columns, 2), [-3.0, 12.0])
    np.testing.assert_allclose(run("energy(b)", columns, 2), [4.0, 13.0])
    for name in "ab":
        members = {key: columns[f"{name}_{one}"] for key, one in _coordinates(name).items()}
        np.testing.assert_allclose(run(f"mass({name})", columns, 2), vector.array(members).mass)


def _coordinates(name: str) -> dict[str, str]:
    if name == "a":
        return {"px": "px", "py": "py", "pz": "pz", "E": "E"}
    return {"pt": "pt", "eta": "eta", "phi": "phi", "mass": "m"}


def test_what_is_not_there_is_missing_and_no_particle_at_all_is_zero() -> None:
    columns = {name: Jagged.from_lists([[], [9.0]], "float64") for name in ("x_pt", "x_eta", "x_phi", "x_mass")}
    for text in (
        "mass(x[1])",
        "pt(x[0] + x[1])",
        "deltaR(x[0], x[1])",
        "pt(x[7])",
        "eta(sum(x[9:]))",
        "phi(sum(x[9:]))",
    ):
        np.testing.assert_array_equal(run(text, columns, 2), [np.nan, np.nan])
    for text in ("mass(sum(x[1:]))", "pt(sum(x[1:]))", "energy(sum(x[x_pt < 0]))"):
        np.testing.assert_array_equal(run(text, columns, 2), [0.0, 0.0])


@pytest.mark.parametrize(
    ("columns", "text", "expected"),
    [
        ("Jet_pt Jet_eta Jet_phi Jet_mass Jet_E", "mass(Jet[0])", "Jet_pt Jet_eta Jet_phi Jet_mass"),
        ("jet_pt jet_eta jet_phi jet_e", "mass(jet[0])", "jet_pt jet_eta jet_phi jet_e"),
        ("Jet Jet.PT Jet.Eta Jet.Phi Jet.Mass", "mass(Jet[0])", "Jet.PT Jet.Eta Jet.Phi Jet.Mass"),
        ("part.pt part.eta part.phi part.mass", "mass(part)", "part.pt part.eta part.phi part.mass"),
        ("b_px b_py b_pz b_E b_pt", "mass(b)", "b_px b_py b_pz b_E"),
        ("b_px b_py b_pz b_m", "mass(b)", "b_px b_py b_pz b_m"),
        ("a.b.Px a.b.Py a.b.Pz a.b.E", "mass(a.b)", "a.b.Px a.b.Py a.b.Pz a.b.E"),
        ("MET_pt MET_phi MET_eta", "pt(MET)", "MET_pt MET_phi"),
        ("MissingET.MET MissingET.Phi", "phi(MissingET)", "MissingET.MET MissingET.Phi"),
        ("x_pt x_eta x_phi x_mass w y", "deltaR(x[w > 1][0], x[y])", "x_pt x_eta x_phi w y"),
        ("x_pt x_eta x_phi x_mass", "mass(massless(x))", "x_pt x_eta x_phi"),
        ("x_pt x_phi y_pt y_phi", "deltaphi(x, y[0])", "x_pt x_phi y_pt y_phi"),
        ("x_phi y", "deltaphi(x_phi[0], y)", "x_phi y"),
        ("Jet/x.pt Jet/x.phi", "pt(`Jet/x`)", "Jet/x.pt Jet/x.phi"),
    ],
)
def test_a_collection_stands_for_its_columns_and_asks_for_no_more(columns: str, text: str, expected: str) -> None:
    expression = Expression.parse(text)
    assert expression.needs(columns.split()) == set(expected.split())
    assert expression.needs(expected.split()) == set(expected.split())  # a contract keeps only those


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("1 + mass(el[0])", 9, "'el' has el_pt, el_eta, el_phi, but neither mass nor energy (el_mass or el_energy)"),
        ("mass(el[0])", 5, "write massless(el) if it has none"),
        ("mass(MET)", 5, "'MET' has MET_pt and MET_phi alone, so it is transverse"),
        ("deltaR(el[0], MET)", 14, "only pt, phi, px, py and deltaphi can be asked of it"),
        ("mass(Jat[0])", 5, "'Jat' stands for the columns Jat_pt, Jat_eta, Jat_phi, Jat_mass here, and there are none"),
        ("mass(Jat[0])", 5, "there are none such; did you mean 'Jet'"),
        ("mass(FJ[0])", 5, "'FJ' stands for the columns FJ_pt, FJ_eta, FJ_phi, FJ_mass here, and there is no FJ_phi"),
        ("deltaphi(Jet[0], MET_phi)", 17, "'MET_phi' stands for the columns MET_phi_pt, MET_phi_phi here"),
        ("deltaphi(Jat[0], MET_phi)", 9, "there is no column 'Jat'"),
        ("Jet[0] + 1", 0, "as a four-vector 'Jet' goes into functions of one, as in pt(Jet) or mass(Jet[0])"),
        ("mass(lep[0])", 5, "'[0]' picks from a list an event, and 'lep' is one four-vector an event"),
        ("mass(sum(Jet[0]))", 9, "'sum' takes a list an event, and 'Jet[0]' is one four-vector an event"),
        ("mass(p4(flag, 0, 0, 0))", 8, "'flag' is bool, which is no coordinate of a four-vector"),
        ("pt(Jet[flag])", 7, "'flag' is one condition an event"),
    ],
)
def test_what_is_no_four_vector_is_refused_at_its_character(text: str, column: int, message: str) -> None:
    types = TYPES | {f"el_{one}": ColumnType("jagged", "float32") for one in ("pt", "eta", "phi")}
    types |= {f"FJ_{one}": ColumnType("jagged", "float32") for one in ("pt", "eta", "mass")}
    types["flag"] = ColumnType("flat", "bool")
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text).result_type(types)
    assert message in caught.value.reason
    assert caught.value.column == column


def test_members_of_different_lengths_are_refused_naming_both() -> None:
    columns = {name: Jagged.from_lists([[1.0, 2.0]]) for name in ("x_pt", "x_phi", "x_mass")}
    columns["x_eta"] = Jagged.from_lists([[1.0]])
    with pytest.raises(DataError, match="'x_pt' and 'x_eta' have different lengths"):
        run("mass(x[0])", columns, 1)
    columns["x_eta"] = Jagged.from_lists([[1.0, 2.0]])
    with pytest.raises(DataError, match="'x' and 'y > 1' have different lengths"):
        run("mass(x[y > 1])", columns | {"y": Jagged.from_lists([[1.0]])}, 1)
