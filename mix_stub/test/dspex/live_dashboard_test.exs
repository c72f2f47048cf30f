defmodule DSPex.LiveDashboardTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython, only: [start_pool!: 1, eventually: 1]

  alias DSPex.LiveDashboard
  alias DSPex.Python
  alias Phoenix.LiveDashboard.PageBuilder

  @pages [LiveDashboard, LiveDashboard.Calls]

  defp shown(page, params, node \\ node()),
    do: page.render(%{__changed__: nil, page: %{params: params, node: node}})

  test "both are pages of the dashboard" do
    for page <- @pages do
      Code.ensure_loaded!(page)

      for {function, arity} <- PageBuilder.behaviour_info(:callbacks),
          do: assert(function_exported?(page, function, arity))

      assert page.init([]) == {:ok, []}
      assert {:ok, "DSPex" <> _title} = page.menu_link([], %{})
      assert page.__page_live__(:refresher?)
    end
  end

  test "workers are shown, found, sorted and limited" do
    pool = start_pool!(size: 2, standby: 0)
    assert Python.await_pools([pool]) == :ok
    name = inspect(pool)
    search = %{"search" => String.upcase(name)}

    table = shown(LiveDashboard, search)
    assert table.total == 2
    assert [[^name, one, _pid, "ready" | _], [^name, other | _]] = table.cells
    assert Enum.sort([one, other]) == ["1", "2"]
    assert length(table.header) == length(hd(table.cells))

    by_worker = Map.merge(search, %{"sort_by" => :worker, "sort_dir" => :desc})
    assert [[_, "2" | _], [_, "1" | _]] = shown(LiveDashboard, by_worker).cells
    limited = shown(LiveDashboard, Map.put(by_worker, "limit", 1))
    assert {[[_, "2" | _]], 2} = {limited.cells, limited.total}
  end

  test "running calls are shown" do
    pool = start_pool!(model: {:elixir, fn _request -> Process.sleep(:infinity) end})
    options = [pool: pool, request_id: "r-#{pool}"]
    call = Task.async(fn -> Python.execute_module("dspy.Predict", "a -> b", "x", options) end)

    eventually(fn ->
      table = shown(LiveDashboard.Calls, %{"search" => "r-#{pool}"})
      match?([[_age, "model", "execute_module", _pool, "1" | _]], table.cells)
    end)

    Task.shutdown(call, :brutal_kill)
  end

  test "a node that cannot be asked has nothing to show" do
    assert %{cells: [], total: 0} = shown(LiveDashboard, %{}, :"nobody@127.0.0.1")
  end
end
