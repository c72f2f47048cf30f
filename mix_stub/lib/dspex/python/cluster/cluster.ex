defmodule DSPex.Python.Cluster do
  @moduledoc """
  Calls the pools of one name on several nodes as one: with `pool: {:cluster, :general}` instead of `pool: :general`.

      {:ok, prediction} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", "Why?", pool: {:cluster, :general})
      prediction.meta["node"]

  Every function that takes the option `:pool` takes it, and so do a `DSPex.LLM.Adapters.Python` and
  `DSPex.Python.await_pools/2`. The nodes are those of Erlang's distribution, however they were connected. A pool that is ready can be found by
  all of them; there is nothing to configure. A node needs no pool of its own to call those of others.

  ## Which node gets a call

    * A call with a `:session_id`, and that of a stored program, goes to the node of the session: always the same one, as long as it is up.
      When a node comes or goes, only the sessions that it gets, or had, move
    * Any other call stays on this node while its pool has room (`:max_in_flight`), and goes to the node with the fewest calls
      otherwise, of those whose pools have room
    * The items of a batch are divided among the workers of all nodes

  A session that moves is found where it goes if the pools have a `:store` that all nodes reach: PostgreSQL. Without one, it ends with its node, and
  also when a node that comes takes its place. The store decides who may write a conversation, also when nodes do not see each other: of two that
  continue one conversation at the same time, one gets an error of kind `:conflict`.

  ## What stays on this node

  Tools, rewards, metrics, models and API keys that are functions of Elixir run on the node of the caller, for the caller, whatever node
  Python is on. The code of the function is needed here only. Deadlines, cancelling and halted streams cross nodes, and the end of the caller ends the
  call. `DSPex.Python.configure_lm/3` configures the pools of all nodes that are up, not those of nodes that join later, which have the model of
  their own configuration; or the session on its node. A function of Elixir that is
  configured so is called here, and can be called no more when this node has gone.

  ## When a node goes down

  Calls in flight there return an error of kind `:worker_died` as soon as the node is seen to be down. With `retry: :safe` they are made again
  elsewhere, once, if it is known that no tool or other function was called for them: not for programs and modules of the application, whose tools
  the caller does not know. `DSPex.Python.drain_pool/2` takes a pool out before it is stopped.

  See "Several machines" in `docs/operations.md` for what nodes need to connect.
  """

  alias DSPex.Python.Cluster.{Loads, ModelFunctions, Placement, Proxies, Remote, RoutedCall}
  alias DSPex.Python.{Callbacks, Error, ModelFunction, Pool}
  alias DSPex.Python.Functions.Model
  alias DSPex.Python.Pool.{Membership, Messages, PoolModel, Readiness, Routing, Settings}
  alias DSPex.Python.Wire.Timeout

  @typedoc "The pool of a name on this node, or those of this name on all nodes."
  @type pool :: atom() | {:cluster, atom()}
  @typedoc "A worker: its number, with its node in a cluster."
  @type worker :: pos_integer() | {node(), pos_integer()}

  # How long a node may take to answer a question about its pool, and how often one looks for a node that has a pool.
  @question_ms 5_000
  @poll_ms 20

  @doc false
  @spec pool?(term()) :: boolean()
  def pool?({:cluster, name}), do: is_atom(name) and pool?(name)
  def pool?(name), do: is_atom(name) and name not in [nil, true, false]

  @doc false
  # The name that the pool has on each node.
  @spec name(pool()) :: atom()
  def name({:cluster, name}), do: name
  def name(name), do: name

  @doc false
  # Calls an operation, see `DSPex.Python.Pool.call/5`.
  @spec call(pool(), atom(), [term()], timeout(), [RoutedCall.option()]) ::
          {:ok, term()} | {:error, Error.t()}
  def call(pool, operation, args, timeout, options \\ [])

  def call({:cluster, name}, operation, args, timeout, options),
    do: RoutedCall.call(name, operation, args, timeout, options)

  def call(pool, operation, args, timeout, options),
    do: Pool.call(pool, operation, args, timeout, options)

  @doc false
  # Returns `call/4` for one pool, as model functions take it.
  @spec caller(pool()) :: ModelFunction.pool_call()
  def caller(pool), do: &call(pool, &1, &2, &3)

  @doc false
  @spec check_request(pool(), term()) :: :ok | {:error, Error.t()}
  def check_request(pool, args), do: Pool.check_request(name(pool), args)

  @doc false
  # Returns the settings of the pool: in a cluster those on this node, or without a pool here what is known of the first node's.
  @spec settings(pool()) :: Settings.t()
  def settings({:cluster, name}) do
    with nil <- Settings.find(name),
         [first | _others] <- Placement.nodes(name),
         %{} = load <- load(name, first) do
      Map.merge(Settings.none(), Map.take(load, [:strict, :retry]))
    else
      %{} = settings -> settings
      _no_pool -> Settings.none()
    end
  end

  def settings(pool), do: Settings.of(pool)

  @doc false
  # Tells whether a pool has a model, in a cluster on each node: `{:missing, message}` says where one is configured, `{:failed, error}`
  # why that failed.
  @spec check_model(pool()) ::
          :ok | {:missing, String.t()} | {:failed, Error.t()} | {:error, Error.t()}
  def check_model({:cluster, name}) do
    states = about(name, :model_state)
    without = for {node, {:ok, :none}} <- states, do: node
    failed = for {node, {:ok, {:failed, cause}}} <- states, do: {node, cause}

    case {without, failed} do
      {[], []} when states == [] -> {:error, Placement.not_found(name)}
      {[], []} -> :ok
      {[], [{node, cause} | _more]} -> {:failed, on_node(cause, node)}
      {nodes, _failed} -> {:missing, Messages.model_missing(name, nodes)}
    end
  end

  def check_model(pool) do
    case PoolModel.state(pool) do
      {:ok, :configured} -> :ok
      {:ok, :none} -> {:missing, Messages.model_missing(pool)}
      {:ok, {:failed, cause}} -> {:failed, cause}
      {:error, error} -> {:error, error}
    end
  end

  defp on_node(error, node), do: %{error | message: "node #{node}: #{error.message}"}

  @doc false
  # Counts the workers that take calls; 0 if there is no pool of this name.
  @spec size(pool()) :: non_neg_integer()
  def size({:cluster, name}) do
    for node <- Placement.nodes(name), %{size: size} <- [load(name, node)], reduce: 0 do
      all -> all + size
    end
  end

  def size(pool), do: Routing.size(pool)

  @doc false
  # Returns where a part of a batch goes.
  @spec route_of_part(pool()) :: Placement.t() | nil
  def route_of_part({:cluster, _name}), do: :least
  def route_of_part(_pool), do: nil

  @doc false
  # Returns the workers to which a call about all of them goes.
  @spec workers(pool()) :: [worker()]
  def workers(pool), do: pool |> workers_and_silent() |> elem(0)

  @doc false
  # Returns these workers, and the nodes that have not said in time which they have.
  @spec workers_and_silent(pool()) :: {[worker()], [node()]}
  def workers_and_silent({:cluster, name}) do
    outcomes =
      name |> Placement.nodes() |> outcomes(:about, question(name, :workers), @question_ms)

    workers =
      for {node, {:answer, {:ok, numbers}}} <- outcomes, number <- numbers, do: {node, number}

    {workers, for({node, :late} <- outcomes, do: node)}
  end

  def workers_and_silent(pool), do: {Pool.workers(pool), []}

  @doc false
  # Returns the error of a node that has not said in time which workers it has.
  @spec silent(node()) :: Error.t()
  def silent(node), do: Error.timeout(@question_ms, "node", "#{node} has not answered")

  @doc false
  # Returns what has happened to the workers of a pool, by node in a cluster.
  @spec report(pool()) :: map()
  def report({:cluster, name}),
    do:
      for({node, {:ok, report}} <- about(name, :report), into: %{}, do: {to_string(node), report})

  def report(pool), do: Pool.report(pool)

  @doc false
  # Returns the node that has a session.
  @spec home(atom(), String.t()) :: node() | nil
  defdelegate home(pool, session_id), to: Placement

  @doc false
  # Configures a model, see `DSPex.Python.Pool.PoolModel.configure/6`; in a cluster with the options of the call.
  @spec configure_model(atom(), String.t() | nil, Model.t(), map(), timeout()) ::
          {:ok, term()} | {:error, Error.t()}
  def configure_model(name, session_id, model, options, timeout) do
    nodes = if session_id, do: List.wrap(home(name, session_id)), else: Placement.nodes(name)

    with {:ok, resolved, callbacks} <- resolved(model, name) do
      {registration, callbacks} = registered = ModelFunctions.register(callbacks)

      request = %{
        pool: name,
        session_id: session_id,
        model: crossing(resolved, callbacks, name),
        options: options,
        timeout: timeout
      }

      results = on_each(nodes, :configure, request, timeout)

      case Enum.find(results, {:error, nil}, fn {_node, result} ->
             match?({:error, _e}, result)
           end) do
        {:error, nil} when results == [] ->
          Callbacks.unregister(registration)
          {:error, Placement.not_found(name)}

        {:error, nil} ->
          ModelFunctions.keep(name, session_id, registered)
          results |> hd() |> elem(1)

        {_node, error} ->
          Callbacks.unregister(registration)
          error
      end
    end
  end

  # A model without functions is read on each node, which has keys in its own environment.
  defp resolved(model, name) do
    with {:ok, resolved, callbacks} <- Model.resolve_checked(model, caller({:cluster, name})),
         do: {:ok, if(callbacks == [], do: model, else: resolved), callbacks}
  end

  defp crossing(model, [], _name), do: model

  defp crossing(resolved, callbacks, name),
    do: {:resolved, resolved, Proxies.described(callbacks, pool: name)}

  @doc false
  @spec forget_model(pool(), String.t()) :: :ok
  def forget_model({:cluster, name}, session_id) do
    home = home(name, session_id)

    if home,
      do: on_each([home], :about, question(name, {:forget_model, session_id}), @question_ms)

    ModelFunctions.keep(name, session_id, {nil, []})
  end

  def forget_model(pool, session_id), do: PoolModel.forget(pool, session_id)

  @doc false
  # Waits until each pool is ready, and for those of all nodes, until one of them is.
  @spec await_all([pool()] | :all, timeout()) :: :ok | {:error, Error.t()}
  def await_all(:all, timeout) do
    :ok = Timeout.check_argument!(timeout)
    Readiness.await_all(:all, timeout)
  end

  def await_all(pools, timeout) do
    :ok = Messages.check_list!(pools)
    :ok = Timeout.check_argument!(timeout)
    deadline = Timeout.deadline(timeout)

    # No pool is waited for in vain.
    case Enum.reject(pools, &pool?/1) do
      [] ->
        Enum.find_value(pools, :ok, &with(:ok <- await(&1, deadline, timeout), do: nil))

      [wrong | _more] ->
        expected = "the name of a pool, an atom, or {:cluster, name},"
        {:error, Error.new(:pool_not_found, Messages.no_name(expected, wrong))}
    end
  end

  defp await({:cluster, name} = pool, deadline, timeout) do
    cond do
      Membership.nodes(name) != [] ->
        :ok

      Timeout.over?(deadline) ->
        {:error, Error.timeout(timeout, "start", Placement.not_found(name).message)}

      true ->
        Process.sleep(@poll_ms)
        await(pool, deadline, timeout)
    end
  end

  defp await(pool, deadline, _timeout),
    do: Readiness.await_all([pool], Timeout.remaining(deadline, 0))

  # Questions about pools --------------------------------------------------------------------------------------------

  defp about(name, question),
    do: name |> Placement.nodes() |> on_each(:about, question(name, question), @question_ms)

  # What the last answer said; asked for before the first.
  defp load(name, node) do
    with nil <- Loads.known(name, node) do
      case on_each([node], :about, question(name, :load), @question_ms) do
        [{_node, {:ok, load}}] -> load
        _gone -> nil
      end
    end
  end

  defp question(name, question), do: %{pool: name, question: question}

  # Asks nodes at the same time; those that have gone meanwhile are left out.
  defp on_each(nodes, kind, request, timeout) do
    for {node, {:answer, result}} <- outcomes(nodes, kind, request, timeout), do: {node, result}
  end

  defp outcomes(nodes, kind, request, timeout) do
    deadline = Timeout.deadline(timeout)

    nodes
    |> Enum.map(fn node ->
      Task.async(fn -> {node, Remote.ask(node, kind, request, deadline)} end)
    end)
    |> Task.await_many(:infinity)
  end
end
