"""The explorer's page: a marimo notebook over a store of coresetdb.

`coresetdb explore STORE` shows it in a browser. To change it, take a copy and edit that:

    coresetdb explore STORE --notebook mine.py
    coresetdb explore STORE --edit --notebook mine.py

The store is the one that CORESETDB_STORE names. What the cells ask of it is documented in
`coresetdb.explorer.explorer`.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="coresetdb explore")


@app.cell
def _():
    import os

    import marimo as mo

    import coresetdb
    from coresetdb.explorer.condition import Filters, joined, number_or_none, within_lasso
    from coresetdb.explorer.explorer import Explorer
    from coresetdb.explorer.map_view import MapView
    from coresetdb.explorer.page_parts import failure, heading, histograms, query_result, text
    from coresetdb.explorer.row_html import row_html
    from coresetdb.schemas.errors import CoresetDBError

    return (
        CoresetDBError,
        Explorer,
        Filters,
        MapView,
        coresetdb,
        failure,
        heading,
        histograms,
        joined,
        mo,
        number_or_none,
        os,
        query_result,
        row_html,
        text,
        within_lasso,
    )


@app.cell
def _(Explorer, coresetdb, heading, mo, os):
    # The store, its map, and a process of its own for all queries.
    explorer = Explorer(coresetdb.connect(), os.environ.get("CORESETDB_MAP") or None)
    get_lasso, set_lasso = mo.state(None)
    get_row, set_row = mo.state(None)
    get_made, set_made = mo.state(None)
    heading(explorer)
    return explorer, get_lasso, get_made, get_row, set_lasso, set_made, set_row


@app.cell
def _(explorer, mo):
    # What the map shows; no cell below draws it anew, they only change what is drawn.
    names = [str(each) for each in explorer.columns]
    colour = mo.ui.dropdown(names, value="corpus", label="Colour by", full_width=True)
    corpora = mo.ui.multiselect(explorer.corpora, label="Corpus", full_width=True)
    contains = mo.ui.text(label="Text contains", full_width=True)
    column = mo.ui.dropdown(
        [str(each) for each in explorer.columns if each.number and each.relation == "pool"],
        label="Number",
        allow_select_none=True,
        full_width=True,
    )
    least = mo.ui.text(label="from", full_width=True)
    most = mo.ui.text(label="to", full_width=True)
    expression = mo.ui.text_area(
        label="Condition (DuckDB)",
        placeholder="response_tokens > 2 * prompt_tokens",
        rows=2,
        full_width=True,
    )
    controls = [
        mo.md("### Map"),
        colour,
        mo.md("### Filters"),
        corpora,
        contains,
        expression,
        column,
        mo.hstack([least, most], widths="equal"),
    ]
    mo.sidebar(mo.vstack(controls), width="20rem")
    return colour, column, contains, corpora, expression, least, most


@app.cell
def _(MapView, explorer, mo, set_lasso, set_row):
    # Its buttons: move, lasso, and the lasso's kind (free, brush, box). A double click drops it.
    view = MapView(explorer, on_lasso=set_lasso, on_point=set_row)
    mo.ui.anywidget(view.widget)
    return (view,)


@app.cell
def _(explorer, get_made, mo):
    lit = mo.ui.dropdown(
        explorer.coresets, value=get_made(), label="Coreset lit", allow_select_none=True
    )
    lit
    return (lit,)


@app.cell
def _(colour, lit, view):
    view.draw(colour.value, lit.value)
    return


@app.cell
def _(
    CoresetDBError,
    Filters,
    column,
    contains,
    corpora,
    explorer,
    expression,
    failure,
    least,
    most,
    number_or_none,
    view,
):
    # The filters decide which points the map shows.
    try:
        filters = Filters(
            corpora=tuple(corpora.value),
            contains=contains.value,
            column=column.value,
            least=number_or_none(least.value, "from"),
            most=number_or_none(most.value, "to"),
            expression=expression.value,
        ).conditions()
        view.show_only(explorer.points_of(explorer.ids_where(filters)) if filters else None)
        filters_fail = None
    except CoresetDBError as error:
        filters, filters_fail = ["false"], failure(error)
    filters_fail
    return (filters,)


@app.cell
def _(CoresetDBError, explorer, failure, filters, get_lasso, joined, mo, text):
    # Filters and lasso are one condition, which `--where` of the command line takes as it is.
    lasso = get_lasso()
    conditions = [*filters, *([lasso] if lasso else [])]
    try:
        selected, shown = explorer.ids_where(conditions), None
    except CoresetDBError as error:
        selected, shown = [], failure(error)
    mo.vstack(
        [
            mo.md("### Selection"),
            shown or text(f"{len(selected):,} of {explorer.rows:,} rows"),
            mo.ui.code_editor(
                joined(conditions) or "true",
                language="sql",
                disabled=True,
                show_copy_button=True,
                label="As a condition, for --where:",
            ),
        ]
    )
    return conditions, selected


@app.cell
def _(explorer, mo):
    numbers = [str(each) for each in explorer.columns if each.number]
    order = mo.ui.dropdown(numbers, label="Best first by", allow_select_none=True)
    drawn = mo.ui.multiselect(numbers, value=explorer.usual_numbers, label="Distributions of")
    mo.hstack([order, drawn], justify="start", wrap=True)
    return drawn, order


@app.cell
def _(drawn, explorer, histograms, selected):
    histograms(explorer, selected, drawn.value)
    return


@app.cell
def _(explorer, mo, order, selected):
    by = explorer.column(order.value) if order.value else None
    listed = explorer.listed(explorer.ordered(selected, by, 200))
    table = mo.ui.table(
        listed,
        selection="single",
        page_size=8,
        show_column_summaries=False,
        show_data_types=False,
        show_download=False,
        label=f"The first {len(listed):,} rows of the selection; choose one to read it",
    )
    table
    return by, table


@app.cell
def _(set_row, table):
    if len(table.value):
        set_row(table.value["id"][0])
    return


@app.cell
def _(CoresetDBError, explorer, failure, get_row, lit, mo, row_html, text):
    # The row: its text, why it was chosen, and its neighbours.
    if get_row() is None:
        row_shown = text("Click a point of the map, or choose a row of the list.")
    else:
        try:
            row = explorer.row(get_row())
            of = lit.value if lit.value in row["coresets"] else next(iter(row["coresets"]), None)
            explanation = explorer.explain(row["id"], of) if of else None
            near = explorer.neighbours(row["id"])
            row_shown = mo.Html(row_html(row, explanation, near, explorer.map.feature))
        except CoresetDBError as error:
            row_shown = failure(error)
    mo.vstack([mo.md("### Row"), row_shown])
    return


@app.cell
def _(mo):
    query = mo.ui.text_area(
        value="SELECT corpus, count(*) AS rows FROM pool GROUP BY ALL ORDER BY rows DESC",
        label="One SELECT over the store's relations",
        full_width=True,
        rows=3,
    ).form(submit_button_label="Run")
    mo.vstack([mo.md("### SQL"), query])
    return (query,)


@app.cell
def _(CoresetDBError, explorer, failure, query, query_result):
    try:
        answer = query_result(explorer, query.value) if query.value else None
    except CoresetDBError as error:
        answer = failure(error)
    answer
    return


@app.cell
def _(explorer, mo):
    coreset_form = (
        mo.md("{name} {targets} {most}")
        .batch(
            name=mo.ui.text(label="Name"),
            targets=mo.ui.multiselect(explorer.targets, label="For targets, if any"),
            most=mo.ui.text(label="The first N rows (all by default)"),
        )
        .form(submit_button_label="Make this a coreset", clear_on_submit=True)
    )
    mo.vstack([mo.md("### Coreset of the selection"), coreset_form])
    return (coreset_form,)


@app.cell
def _(
    CoresetDBError,
    by,
    conditions,
    coreset_form,
    explorer,
    failure,
    number_or_none,
    set_made,
    text,
):
    made = None
    if coreset_form.value:
        try:
            first = number_or_none(coreset_form.value["most"], "The first N rows")
            coreset = explorer.make_coreset(
                coreset_form.value["name"],
                conditions,
                by=by,
                most=None if first is None else int(first),
                targets=coreset_form.value["targets"],
            )
            set_made(coreset.name)
            made = text(
                f"{coreset.name}: {len(coreset):,} rows. See: coresetdb coreset show "
                f"{explorer.store.typed} {coreset.name}"
            )
        except CoresetDBError as error:
            made = failure(error)
    made
    return


if __name__ == "__main__":
    app.run()
