"""Every cell of every parameter table, on the wire: the exact path, or absence and a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from broker.errors import InferenceError
from tests.workers.parameters.cells import PROVIDERS, TABLES, Cell, at, body, cells
from tests.workers.parameters.expected import EXPECTED, Absent, Among
from tests.workers.parameters.models import MODELS
from tests.workers.parameters.samples import SAMPLES, openai_value, request
from workers.emulation import Plan, plan_of
from workers.failures import Limits
from workers.parameters import COLUMNS, Action, At, base_name
from workers.parameters.settle import is_moot
from workers.provider import Call
from workers.upstream import Upstream

CELLS = cells()


def _cells(
    *actions: Action, code: bool | None = None, headers: bool = False
) -> pytest.MarkDecorator:
    """The cells with these actions; `code`: whether the dialect's own code does them."""
    chosen = [
        cell
        for cell in CELLS
        if (cell.row.unless or cell.row.action) in actions
        and (code is None or code == (cell.row.words is None))
        and headers == (cell.row.path == "(headers)")
    ]
    TESTED.update(cell.id for cell in chosen)
    return pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.id) for cell in chosen])


TESTED: set[str] = set()


def _asked(cell: Cell, more: str = "") -> Call:
    return cell.call(request(cell.column, effort=cell.effort, more=more))


def _unasked(cell: Cell) -> Call:
    return cell.call(request(cell.column, effort=cell.effort, without=True))


def _reported(cell: Cell, call: Call) -> bool:
    """Whether the parameter was reported as dropped, and not only what it needs around it."""
    return base_name(cell.column) in set(call.dropped) - set(_unasked(cell).dropped)


@_cells(Action.KEEP, Action.RENAME)
def test_a_parameter_goes_out_unchanged_at_its_path(cell: Cell) -> None:
    call = _asked(cell)
    assert not _reported(cell, call)
    if cell.column == "message_name":
        assert "Ann" in at(body(call), cell.row.path)
    else:
        assert at(body(call), cell.row.path) == [openai_value(cell.column)]
    if cell.row.unless_moot:
        moot = cell.call(request(cell.column, effort=cell.effort, more=f"{cell.column}: 0"))
        assert at(body(moot), cell.row.path) == []
        assert not _reported(cell, moot)


@_cells(Action.CLAMP)
def test_a_parameter_goes_out_within_bounds(cell: Cell) -> None:
    row, value = cell.row, openai_value(cell.column)
    name = {"max_completion_tokens": "max_output_tokens"}.get(cell.column, cell.column)
    if isinstance(value, list):
        assert row.high is not None
        many = [f"s{number}" for number in range(int(row.high))]
        call = _asked(cell, " ".join(f"{name}: '{item}'" for item in many))
        assert at(body(call), row.path) == [[*value, *many][: int(row.high)]]
        assert _reported(cell, call)
        return
    samples = {value: min(max(value, row.low or value), row.high or value)}
    whole = isinstance(value, int)
    for bound, beyond in ((row.low, -1), (row.high, 1)):
        # Clients cannot ask for what OpenAI's own bounds forbid, such as a negative limit.
        if bound is not None:
            samples[(int(bound) if whole else bound) + beyond] = bound
    for given, sent in samples.items():
        call = _asked(cell, f"{name}: {given}")
        assert at(body(call), row.path) == [sent], given
        assert not _reported(cell, call)


@_cells(Action.MAP, code=False)
def test_a_parameter_goes_out_as_the_word_for_it(cell: Cell) -> None:
    row = cell.row
    assert row.words is not None
    if cell.column.startswith("role="):
        word = row.words[cell.column.removeprefix("role=")]
        assert word in at(body(_asked(cell)), row.path)
        return
    if cell.column.startswith("tool_choice="):
        assert at(body(_asked(cell)), row.path) == [*row.words.values()]
        return
    path = "reasoning { effort: '%s' }" if cell.column == "reasoning_effort" else None
    for given, word in row.words.items():
        quoted = f"'{given}'" if isinstance(given, str) else given
        call = _asked(cell, path % given if path else f"{cell.column}: {quoted}")
        where, wanted = (word.path, word.value) if isinstance(word, At) else (row.path, word)
        assert at(body(call), where) == ([] if word is None else [wanted]), given
        assert not _reported(cell, call)
    other = 0.25 if cell.column in ("temperature", "top_p") else "'other'"
    call = _asked(cell, path % "other" if path else f"{cell.column}: {other}")
    assert not any(at(body(call), row.path))
    assert _reported(cell, call)


@_cells(Action.DROP)
def test_a_parameter_is_left_out_and_reported(cell: Cell) -> None:
    call, without = _asked(cell), _unasked(cell)
    assert body(call) == body(without)
    # Nothing is lost where the value asks for what happens anyway.
    moot = is_moot(cell.column, openai_value(cell.column))
    assert _reported(cell, call) == (not moot)
    if not moot:
        strict = request(cell.column, effort=cell.effort)
        strict.platform.drop_params = False
        with pytest.raises(InferenceError) as caught:
            cell.call(strict)
        assert caught.value.reason == "unsupported_parameter"
        assert base_name(cell.column) in caught.value.message


@_cells(Action.REJECT)
def test_a_parameter_that_would_change_the_answer_is_refused(cell: Cell) -> None:
    with pytest.raises(InferenceError) as caught:
        _asked(cell)
    assert caught.value.reason == "unsupported_parameter"
    assert caught.value.param == base_name(cell.column)


AROUND = [cell for cell in CELLS if cell.row.unless is not None]


@pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.id) for cell in AROUND])
def test_what_the_worker_does_around_the_dialect_does_not_reach_it(cell: Cell) -> None:
    """The cells above say what a dialect does with it that is asked all the same."""
    asked = request(cell.column, effort=cell.effort)
    plan = plan_of(asked, cell.model, cell.provider)
    assert isinstance(plan, Plan)
    assert {"n": plan.calls, "stop": plan.stops}[cell.column] == openai_value(cell.column)
    call = cell.call(plan.request)
    assert body(call) == body(_unasked(cell))
    assert not _reported(cell, call)


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=cell.id) for cell in CELLS if "response_format=" in cell.column]
)
def test_answers_are_checked_where_the_form_is_emulated(cell: Cell) -> None:
    asked = request(cell.column, effort=cell.effort)
    plan = plan_of(asked, cell.model, cell.provider)
    checked = isinstance(plan, Plan) and plan.form is not None
    # Cohere's own forms give way to ours beside tools and documents.
    sometimes = cell.provider.name == "cohere"
    assert checked == (cell.row.action is Action.EMULATE or sometimes)


@_cells(Action.MAP, code=True, headers=True)
async def test_a_parameter_reaches_the_provider_as_a_header(cell: Cell) -> None:
    wanted = _expected(cell)
    assert wanted.items() <= (await _headers(cell, _asked(cell))).items()
    assert not wanted.items() <= (await _headers(cell, _unasked(cell), asked=False)).items()


@_cells(Action.MAP, Action.EMULATE, code=True)
def test_a_parameter_is_written_by_the_dialect(cell: Cell) -> None:
    call, path = _asked(cell), cell.row.path
    if cell.row.action is Action.MAP and (cell.column, path) != ("function_call", "tool_choice"):
        assert not _reported(cell, call)
    if not path:
        assert body(call) == body(_unasked(cell))
        return
    wanted = _expected(cell)
    if path == "(url)":
        assert call.path.endswith(wanted)
        assert not _unasked(cell).path.endswith(wanted)
    else:
        found = at(body(call), path)
        if isinstance(wanted, Absent):
            assert found == []
        elif isinstance(wanted, Among):
            assert wanted.value in found
        else:
            assert found == [wanted]
        # Some are the same whether or not the caller asks for them.
        assert (body(call) == body(_unasked(cell))) == (cell.column in ("stream_options", "store"))


def _expected(cell: Cell) -> Any:
    if cell.column == "extra_headers":
        return {"x-custom-header": "v"}
    dialect = cell.provider.dialect_for(cell.model)
    expected = EXPECTED[type(dialect).__module__.split(".")[2]]
    key = (cell.column, cell.row.path)
    for special in (cell.provider.name, cell.sheet.name):
        if (*key, special) in expected:
            return expected[(*key, special)]
    return expected[key]


async def _headers(cell: Cell, call: Call, *, asked: bool = True) -> Mapping[str, str]:
    """The headers that reach the provider."""
    seen: list[httpx.Request] = []

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(500, stream=httpx.ByteStream(b""))

    upstream = Upstream(cell.provider, transport=Transport())
    sample = request(cell.column, effort=cell.effort, without=not asked)
    reply = await upstream.open(
        call,
        key="k",
        limits=Limits(connect_s=1, first_byte_s=1, stall_s=1, deadline_s=1),
        extra_headers=sample.platform.extra_headers,
    )
    await reply.aclose()
    return seen[0].headers


def test_every_family_of_models_has_a_model_that_is_tested() -> None:
    for name, provider in TABLES.items():
        families = {sheet.name: sheet for sheet in provider.parameters.sheets}
        assert MODELS[name].keys() == families.keys(), name
        for family, model in MODELS[name].items():
            assert provider.parameters.sheet(model) is families[family], model


def test_every_table_has_a_row_for_every_column() -> None:
    for name, provider in TABLES.items():
        for sheet in provider.parameters.sheets:
            missing = [column for column in COLUMNS if column not in sheet.rows]
            assert not missing, (name, sheet.name)


def test_every_column_has_a_sample() -> None:
    assert {*SAMPLES} == {*COLUMNS}


def test_every_format_of_every_provider_has_its_cells() -> None:
    tables = {id(form.parameters) for name in PROVIDERS for form in PROVIDERS[name].formats}
    assert {cell.table for cell in CELLS} == {*TABLES}
    # Claude's table is the same one at Anthropic and on Vertex AI.
    assert len(tables) == len(TABLES) - 1 > len(PROVIDERS)


def test_every_cell_has_one_test() -> None:
    ids = [cell.id for cell in CELLS]
    assert len(set(ids)) == len(ids)
    assert set(ids) == TESTED
