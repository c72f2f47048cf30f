defmodule Phoenix.LiveDashboard.PageBuilder do
  @moduledoc """
  Stands for the module of Phoenix LiveDashboard in tests: this project does not depend on it.

  Its callbacks and the component `live_table/1` are those of version 0.8. The table does what the dashboard's does: it checks its columns, fetches
  the rows by the parameters of the page, and shows each cell as text.
  """

  @callback init(term()) :: {:ok, term()}
  @callback menu_link(term(), map()) :: {:ok, String.t()} | :skip
  @callback render(map()) :: term()

  def live_table(%{__changed__: _, page: page, row_fetcher: fetch, col: columns} = assigns) do
    sortable = for column <- columns, column[:sortable], do: column
    [first | _more] = sortable

    params = %{
      sort_by: page.params["sort_by"] || assigns.default_sort_by || first.field,
      sort_dir: page.params["sort_dir"] || first.sortable,
      limit: page.params["limit"] || hd(assigns.limit),
      search: page.params["search"]
    }

    {rows, total} = fetch.(params, page.node)
    cells = for row <- rows, do: for(column <- columns, do: to_string(row[column.field]))
    %{title: assigns.title, header: Enum.map(columns, & &1.header), cells: cells, total: total}
  end
end
