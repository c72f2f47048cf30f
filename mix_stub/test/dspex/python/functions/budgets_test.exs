defmodule DSPex.Python.Functions.BudgetsTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.{ModelServer, Python}
  alias DSPex.Python.Error
  alias DSPex.Python.Functions.Budgets

  @qa "question -> answer"

  # A model that reports 10 tokens for each answer, and tells this test of each request.
  defp counted do
    test = self()

    answer = fn request ->
      send(test, {:asked, List.last(request.messages).content})
      Process.sleep(5)

      %{
        text: "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]",
        usage: %{input_tokens: 8, output_tokens: 2}
      }
    end

    {:elixir, answer}
  end

  defp asked(count \\ 0) do
    receive do
      {:asked, _prompt} -> asked(count + 1)
    after
      0 -> count
    end
  end

  defp ask(options), do: Python.execute_module("dspy.Predict", @qa, "Why?", options)

  describe "a tenant" do
    test "has one budget whether an atom or a text names it, which no other value shares" do
      budgets = {table, _limits} = {Budgets.table(), [tenant: [max_cost: 1]]}

      for value <- [:acme, "acme", true, "true", 1, "1"],
          do: [_budget] = Budgets.of_tenants(budgets, %{tenant: value})

      assert table |> :ets.tab2list() |> Enum.map(&elem(&1, 0)) |> Enum.sort() ==
               Enum.sort([
                 {:tenant, "acme"},
                 {:tenant, true},
                 {:tenant, "true"},
                 {:tenant, 1},
                 {:tenant, "1"}
               ])

      assert Budgets.reset(budgets, :tenant, :acme)
      refute Budgets.reset(budgets, :tenant, "acme")
    end

    setup do
      pool = start_pool!(size: 2, standby: 0, budgets: [tenant: [max_tokens_total: 30]])
      assert Python.await_pools([pool]) == :ok
      {:ok, pool: pool, options: [pool: pool, lm: counted()]}
    end

    test "has one budget in all workers, which other tenants do not share",
         %{pool: pool} = given do
      acme = [metadata: %{tenant: "acme"}] ++ given.options
      workers = for _ <- 1..3, {:ok, prediction} = ask(acme), do: prediction.meta["worker"]
      assert length(workers) == 3
      assert {:error, %Error{kind: :budget} = error} = ask(acme)
      assert error.message =~ ~s(tenant "acme")
      assert error.details["budget"]["total_tokens"] == 30
      for _ <- 1..8, do: assert({:error, %Error{kind: :budget}} = ask(acme))
      assert asked() == 3

      assert {:ok, _prediction} = ask([metadata: %{"tenant" => :other}] ++ given.options)
      assert {:ok, _prediction} = ask(given.options)

      assert {:ok, budgets} = Python.list_budgets(pool: pool)

      assert %{"value" => "acme", "total_tokens" => 30, "max_tokens_total" => 30} =
               Enum.find(budgets, &(&1["value"] == "acme"))

      assert Python.reset_budget(:tenant, "acme", pool: pool) == {:ok, true}
      assert {:ok, _prediction} = ask(acme)
      assert Python.reset_budget("tenant", "acme", pool: pool) == {:ok, true}

      assert {:error, %Error{kind: :input, message: message}} =
               Python.reset_budget(:tenat, "acme", pool: pool)

      assert message ==
               "pool #{inspect(pool)} has no budgets of :tenat; its option budgets: names :tenant"
    end

    test "that is spent is begun anew by what its error names", given do
      acme = [metadata: %{tenant: "acme"}] ++ given.options
      for _call <- 1..3, do: {:ok, _prediction} = ask(acme)
      assert {:error, %Error{kind: :budget, message: message}} = ask(acme)

      assert message =~
               ~r/^the budget of tenant "acme" is spent: .*; reset_budget\/3 begins it anew$/
    end

    test "is any value but nil, under the key as an atom or as text", given do
      for metadata <- [%{tenant: false}, %{"tenant" => "acme", tenant: nil}] do
        options = [metadata: metadata] ++ given.options
        results = for _call <- 1..4, do: ask(options)
        assert {:error, %Error{kind: :budget}} = List.last(results)
      end
    end

    test "is counted while it is reset" do
      budgets = {Budgets.table(), [tenant: [max_cost: 1]]}
      repeat = fn work -> Task.async(fn -> for _time <- 1..50_000, do: work.() end) end
      count = fn -> [_budget] = Budgets.of_tenants(budgets, %{tenant: "acme"}) end
      reset = fn -> Budgets.reset(budgets, :tenant, "acme") end
      tasks = for work <- [count, count, reset, reset], do: repeat.(work)
      assert length(Task.await_many(tasks, 60_000)) == 4
    end

    test "keeps its budget when Python dies", %{pool: pool} = given do
      acme = [metadata: %{tenant: "acme"}] ++ given.options
      for _ <- 1..3, do: {:ok, _prediction} = ask(acme)
      signal(pool, "KILL")
      assert {:error, %Error{kind: :budget}} = ask([retry: :safe] ++ acme)
    end

    test "pays for streams, batches and programs", given do
      acme = [metadata: %{tenant: "acme"}] ++ given.options
      assert {:prediction, _} = Python.stream("dspy.Predict", @qa, "Why?", acme) |> Enum.at(-1)
      {:ok, program} = Python.create_program([signature: @qa], pool: given.pool)
      assert {:ok, _prediction} = Python.execute_program(program, "Why?", acme)
      inputs = for number <- 1..20, do: "Q#{number}"

      {:ok, results} =
        Python.execute_batch("dspy.Predict", @qa, inputs, [max_concurrency: 4] ++ acme)

      {done, refused} = Enum.split_with(results, &match?({:ok, _}, &1))
      # At most those over that were in flight at the same time.
      assert length(done) in 1..4
      assert Enum.all?(refused, &match?({:error, %Error{kind: :budget}}, &1))

      assert {:error, %Error{kind: :budget}} =
               Python.stream_program(program, "Why?", acme) |> Enum.at(-1)
    end

    test "of a caller that ends leaves nothing behind", given do
      acme = [metadata: %{tenant: "acme"}] ++ given.options
      {:ok, _prediction} = ask(acme)
      eventually(fn -> registered_by(self()) == [] end)
    end
  end

  describe "a batch" do
    setup do
      pool = start_pool!(size: 2, standby: 0)
      assert Python.await_pools([pool]) == :ok
      {:ok, pool: pool}
    end

    test "has one budget in all workers", %{pool: pool} do
      inputs = for number <- 1..100, do: "Q#{number}"
      options = [pool: pool, lm: counted(), max_tokens_total: 50, max_concurrency: 4]
      {:ok, results} = Python.execute_batch("dspy.Predict", @qa, inputs, options)
      assert Enum.count(results, &match?({:ok, _}, &1)) in 5..8
      assert asked() in 5..8
      assert {:error, %Error{message: message}} = List.last(results)
      assert message =~ "the budget of this call"

      streamed = Python.stream_batch("dspy.Predict", @qa, inputs, options)
      # Each time that it is read it is a new call.
      for _ <- 1..2 do
        assert Enum.count(streamed, &match?({_index, {:ok, _}}, &1)) in 5..8
      end
    end

    test "with a wrong limit is an error that names its place", %{pool: pool} do
      options = [pool: pool, lm: counted(), max_tokens_total: -1]

      assert {:error, %Error{kind: :input, path: "opts.max_tokens_total"}} =
               Python.execute_batch("dspy.Predict", @qa, ["a", "b"], options)
    end
  end

  test "costs are counted in dollars" do
    url = ModelServer.start!()

    pool =
      start_pool!(
        model: ModelServer.model(url <> "/v1", "gpt-4o-mini"),
        budgets: [team: [max_cost: 1.0e-7]]
      )

    options = [pool: pool, metadata: %{team: 7}]
    assert {:ok, prediction} = ask(options)
    assert {:error, %Error{kind: :budget, message: message}} = ask(options)
    assert message =~ "team 7"
    {:ok, [budget]} = Python.list_budgets(pool: pool)
    assert_in_delta budget["cost"], prediction.meta["cost"], 1.0e-8
  end

  test "a session that is opened with limits is closed by them" do
    pool = start_pool!(size: 2)

    assert {:ok, %{"budget" => %{"max_tokens_total" => 5}}} =
             Python.open_session("bob", [max_tokens_total: 5], pool: pool)

    options = [pool: pool, session_id: "bob", lm: counted()]
    assert {:ok, _prediction} = ask(options)
    assert {:error, %Error{kind: :budget}} = ask(options)
    {:ok, [listed]} = Python.list_sessions(pool: pool)
    assert listed["budget"]["total_tokens"] == 10
  end

  test "wrong budgets of a pool are refused, with the place and what may be meant" do
    # Each was told "expected budgets such as …", and a misspelt limit was not named.
    for {wrong, message} <- [
          {[tenant: [max_costs: 1]],
           "unknown limit :max_costs at budgets.tenant (did you mean :max_cost?); known are :max_cost, :max_tokens_total"},
          {[tenant: [max_total_tokens: 1]], "(did you mean :max_tokens_total?)"},
          {[tenant: [max_cost: 1, dollars: 1]],
           "unknown limit :dollars at budgets.tenant; known"},
          {[tenant: [max_cost: -1]],
           "expected a number of dollars from 0 to 1,000,000 at budgets.tenant.max_cost, got -1"},
          {[tenant: [max_tokens_total: 1.5]],
           "expected a whole number of tokens from 0 to 2^53 at budgets.tenant.max_tokens_total, got 1.5"},
          {[tenant: [max_cost: 1, max_cost: 2]],
           "expected the key :max_cost once at budgets.tenant"},
          {[tenant: [max_cost: 1], tenant: [max_cost: 2]],
           "expected the key :tenant once at budgets"},
          {[tenant: 5], "expected limits at budgets.tenant, such as [max_cost: 5.0"},
          {[tenant: []], "expected limits at budgets.tenant, such as"},
          {[tenant: [1]], "expected limits at budgets.tenant, such as"},
          {[max_cost: 5.0],
           "expected a key of the metadata of calls at budgets, such as [tenant: [max_cost: 5.0]], got :max_cost"},
          {[{"tenant", [max_cost: 1]}],
           ~S|expected a key of the metadata of calls at budgets, such as [tenant: [max_cost: 5.0, max_tokens_total: 1_000_000]], got "tenant"|},
          # These three were taken, and limited nothing.
          {[nil: [max_cost: 1]], ~r/^expected a key of the metadata of calls .*, got nil /},
          {[true: [max_cost: 1]], ~r/^expected a key of the metadata of calls .*, got true /},
          {["": [max_cost: 1]], ~r/^expected a key of the metadata of calls .*, got :"" /},
          {[tenant: %{max_cost: 1}], "expected limits at budgets.tenant, such as [max_cost: 5.0"},
          {%{tenant: [max_cost: 1]},
           "expected a keyword list of keys of the metadata of calls, such as [tenant: [max_cost: 5.0, max_tokens_total: 1_000_000]], got %{tenant: [max_cost: 1]}"},
          {[{:tenant, [max_cost: 1]} | :more], "expected a keyword list of keys"},
          {5, "expected a keyword list of keys"}
        ] do
      error =
        assert_raise ArgumentError, fn ->
          Python.Pool.child_spec(name: :wrong, budgets: wrong)
        end

      assert error.message =~ message
      assert error.message =~ "for the option :budgets of pool :wrong"
    end
  end
end
