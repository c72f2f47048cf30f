defmodule DSPex.LiveDashboard do
  @moduledoc """
  Shows the workers of all pools as a page of Phoenix LiveDashboard, and the running calls as another one (`DSPex.LiveDashboard.Calls`):

      live_dashboard "/dashboard",
        additional_pages: [
          dspex: DSPex.LiveDashboard,
          dspex_calls: DSPex.LiveDashboard.Calls
        ]

  Both are about the node that the dashboard shows. `DSPex.Python.top/1` shows the same in a terminal.
  """

  # The pages are written as `use Phoenix.LiveDashboard.PageBuilder` would write them, without it: Mix may compile this project before the
  # dashboard, on which it does not depend. They call the dashboard when they are shown.

  alias DSPex.LiveDashboard.Table

  @doc false
  def __page_live__(:refresher?), do: true

  @doc false
  def init(options), do: {:ok, options}

  @doc false
  def menu_link(_session, _capabilities), do: {:ok, "DSPex"}

  @doc false
  def render(assigns) do
    Table.render(assigns, "dspex-workers", "Workers of DSPex", "workers", &Table.workers/1, [
      {:pool, "Pool", :asc},
      {:worker, "Worker", :asc},
      {:pid, "PID", nil},
      {:state, "State", :asc},
      {:in_flight, "Calls", :desc},
      {:queued, "Queued in pool", :desc},
      {:memory, "Memory (MB)", :desc},
      {:sessions, "Sessions", :desc},
      {:programs, "Programs", :desc},
      {:pool_tokens, "Tokens of pool", :desc},
      {:pool_cost, "Cost of pool ($)", :desc},
      {:pool_errors, "Errors of pool", :desc}
    ])
  end
end

defmodule DSPex.LiveDashboard.Calls do
  @moduledoc """
  Shows the running calls of all pools as a page of Phoenix LiveDashboard, see `DSPex.LiveDashboard`.
  """

  alias DSPex.LiveDashboard.Table

  @doc false
  def __page_live__(:refresher?), do: true

  @doc false
  def init(options), do: {:ok, options}

  @doc false
  def menu_link(_session, _capabilities), do: {:ok, "DSPex calls"}

  @doc false
  def render(assigns) do
    Table.render(assigns, "dspex-calls", "Running calls of DSPex", "calls", &Table.calls/1, [
      {:age_ms, "Age (ms)", :desc},
      {:stage, "Stage", :asc},
      {:operation, "Operation", :asc},
      {:pool, "Pool", :asc},
      {:worker, "Worker", :asc},
      {:request_id, "Request", nil},
      {:caller, "Caller", :asc}
    ])
  end
end

defmodule DSPex.LiveDashboard.Table do
  @moduledoc false

  # Makes the tables of both pages: their rows, which the dashboard has searched, sorted and limited here.

  alias DSPex.Python.Call.Overview

  @page_builder Phoenix.LiveDashboard.PageBuilder
  @timeout 15_000

  @type row :: %{atom() => String.t() | number() | nil}

  @doc """
  Returns what the dashboard shows: a table with columns `{field, header, how_it_is_sorted_first}`.
  """
  @spec render(map(), String.t(), String.t(), String.t(), (Overview.t() -> [row()]), [
          {atom(), String.t(), :asc | :desc | nil}
        ]) :: term()
  def render(assigns, id, title, rows_name, rows, columns) do
    # By apply/3, because the module may not exist when this one is compiled.
    apply(@page_builder, :live_table, [
      %{
        __changed__: nil,
        id: id,
        dom_id: id,
        page: assigns.page,
        title: title,
        rows_name: rows_name,
        row_fetcher: &fetch(rows, &1, &2),
        row_attrs: nil,
        default_sort_by: nil,
        limit: [50, 100, 500],
        search: true,
        hint: nil,
        col:
          for {field, header, sortable} <- columns do
            %{__slot__: :col, inner_block: nil, field: field, header: header, sortable: sortable}
          end
      }
    ])
  end

  @doc """
  Returns the rows that the dashboard asks for of a node, and how many there are in all.
  """
  @spec fetch((Overview.t() -> [row()]), map(), node()) :: {[row()], non_neg_integer()}
  def fetch(rows, params, node) do
    found = node |> overview() |> rows.() |> Enum.filter(&found?(&1, params.search))
    sorted = Enum.sort_by(found, &key(&1[params.sort_by]), params.sort_dir)
    {if(params.limit, do: Enum.take(sorted, params.limit), else: sorted), length(found)}
  end

  defp overview(node) when node == node(), do: Overview.take(:all)

  defp overview(node) do
    :erpc.call(node, Overview, :take, [:all], @timeout)
  catch
    # The node has ended, or has no DSPex.
    _kind, _reason -> %Overview{at: 0, pools: []}
  end

  defp found?(_row, nil), do: true

  defp found?(row, search) do
    wanted = String.downcase(search)
    Enum.any?(row, fn {_field, value} -> value |> to_string() |> String.downcase() =~ wanted end)
  end

  # What is not known is less than any number and any text.
  defp key(nil), do: {0, nil}
  defp key(value), do: {1, value}

  @doc """
  Returns a row for each worker.
  """
  @spec workers(Overview.t()) :: [row()]
  def workers(overview) do
    for pool <- overview.pools, worker <- pool.workers do
      %{
        pool: inspect(pool.name),
        worker: worker.number,
        pid: worker.pid,
        state: Atom.to_string(worker.state),
        in_flight: worker.in_flight,
        queued: pool.queued,
        memory: worker.memory && round(worker.memory / 1.0e6),
        sessions: worker.sessions,
        programs: worker.programs,
        pool_tokens: pool.spent.tokens,
        pool_cost: Float.round(pool.spent.cost * 1.0, 6),
        pool_errors: pool.spent.errors
      }
    end
  end

  @doc """
  Returns a row for each running call.
  """
  @spec calls(Overview.t()) :: [row()]
  def calls(overview) do
    for pool <- overview.pools, worker <- pool.workers, call <- worker.calls do
      %{
        age_ms: round(call["age_ms"]),
        stage: call["stage"],
        operation: call["operation"],
        pool: inspect(pool.name),
        worker: worker.number,
        request_id: call["request_id"],
        caller: call["caller"]
      }
    end
  end
end
