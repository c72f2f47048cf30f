defmodule DSPex.Python.Cluster.RoutedCall do
  @moduledoc false

  # Makes one call of the pools of a name: on this node or on another one, and once more elsewhere if the node does not have
  # the pool any more, or has gone down and the call may be repeated.

  alias DSPex.Python.Cluster.{Loads, Placement, Proxies, Remote}
  alias DSPex.Python.{Error, Pool}
  alias DSPex.Python.Functions.{Callback, CallbackRegistry}
  alias DSPex.Python.Pool.{Membership, Routing}
  alias DSPex.Python.Wire.Timeout

  # Operations during which Python may call tools of its own, of which this node learns nothing.
  @executes ~w(execute_module execute_batch execute_program execute_program_batch stream_module stream_program
               stream_batch stream_evaluate stream_compile evaluate_program compile_program)a
  # Of these the caller sees pieces before the call has ended. Results of a batch are whole calls.
  @seen_early ~w(stream_module stream_program stream_evaluate stream_compile)a

  @typedoc """
  As in `DSPex.Python.Pool.Dispatch`, and `:functions`: those that Python may call during the call, which are registered on
  this node.
  """
  @type option :: {:functions, [Callback.t()]} | {atom(), term()}

  @doc """
  Calls an operation, see `DSPex.Python.Pool.call/5`.
  """
  @spec call(atom(), atom(), [term()], timeout(), [option()]) ::
          {:ok, term()} | {:error, Error.t()}
  def call(pool, operation, args, timeout, options) do
    {named, named_args} = Keyword.get(options, :named) || {operation, args}
    {route, args} = placed(named, options[:route], named_args, args)

    attempt(%{
      pool: pool,
      operation: operation,
      named: {named, named_args},
      args: args,
      timeout: timeout,
      deadline: Timeout.deadline(timeout),
      route: route,
      retry: options[:retry],
      on_worker: options[:on_worker],
      part?: options[:part?] || false,
      functions: options[:functions] || [],
      tried: [],
      failed: nil
    })
  end

  # A piece of a model's answer goes to the Python that has asked for it.
  defp placed(:model_piece, nil, _named_args, [token | rest] = args) do
    case Proxies.node_of_token(token) do
      {node, token} -> {{:node, node}, [token | rest]}
      nil -> {{:node, node()}, args}
    end
  end

  defp placed(named, nil, named_args, args), do: {Routing.route(named, named_args), args}
  defp placed(_named, route, _named_args, args), do: {route, args}

  defp attempt(call) do
    cond do
      Timeout.over?(call.deadline) ->
        call.failed || {:error, Error.timeout(call.timeout, "node", "no node has answered")}

      node = Placement.node_for(call.pool, call.route, call.tried) ->
        node |> made(call) |> judged(%{call | tried: [node | call.tried]}, node)

      true ->
        call.failed || {:error, Placement.not_found(call.pool)}
    end
  end

  # On this node a call is made as that of a pool is.
  defp made(node, call) when node == node() do
    on_worker = call.on_worker && fn number -> call.on_worker.({node, number}) end

    options = [
      route: local(call.route),
      retry: call.retry,
      named: call.named,
      on_worker: on_worker,
      part?: call.part?
    ]

    args = within_what_is_left(call)
    {:answer, Pool.call(call.pool, call.operation, args, left(call), options)}
  end

  defp made(node, call) do
    request = %{
      pool: call.pool,
      operation: call.operation,
      named: call.named,
      args: within_what_is_left(call),
      timeout: left(call),
      route: local(call.route),
      retry: call.retry,
      tells_worker?: call.on_worker != nil,
      functions: Proxies.described(call.functions, log(call))
    }

    Loads.during(call.pool, node, fn ->
      Remote.ask(node, :call, request, call.deadline, false, &told(&1, &2, node, call))
    end)
  end

  # Returns whether the caller has seen something of the call.
  defp told({:worker, number}, seen?, node, call) do
    call.on_worker.({node, number})
    seen?
  end

  defp told({:event, {:dspex_stream, _ref, event} = message}, seen?, _node, call) do
    send(hd(call.args), message)
    seen? or (call.operation in @seen_early and not match?(%{"type" => "status"}, event))
  end

  defp told(_unknown, seen?, _node, _call), do: seen?

  defp judged({:answer, {:error, %Error{} = error} = failed}, call, _node),
    do: if(elsewhere?(error, call), do: again(call, failed, error), else: failed)

  defp judged({:answer, result}, _call, _node), do: result

  defp judged({{:answer, _result} = answer, _seen?}, call, node), do: judged(answer, call, node)

  defp judged({{:refused, reason}, _seen?}, call, node) do
    failed = {:error, refused(reason, node)}
    if Placement.movable?(call.route), do: attempt(%{call | failed: failed}), else: failed
  end

  defp judged({:late, _seen?}, call, node),
    do: {:error, Error.timeout(call.timeout, "node", "#{node} has not answered")}

  defp judged({:lost, seen?}, call, node) do
    error =
      Error.new(:worker_died, "node #{node} went down while the call was being made there", %{
        "sent" => true,
        "asked" => nil,
        "called" => called(call, seen?),
        "node" => to_string(node)
      })

    failed = {:error, error}

    if Placement.movable?(call.route) and repeatable?(error, call),
      do: again(call, failed, error),
      else: failed
  end

  # The pool has just been stopped, or has no room: nothing was done.
  defp elsewhere?(%Error{kind: :pool_not_found}, call), do: Placement.movable?(call.route)
  defp elsewhere?(%Error{kind: :overloaded}, call), do: call.route in [:any, :least]

  defp elsewhere?(%Error{kind: :port_closed} = error, call),
    do: Placement.movable?(call.route) and (unsent?(error) or repeatable?(error, call))

  defp elsewhere?(_error, _call), do: false

  defp unsent?(error), do: error.details["sent"] == false

  defp repeatable?(error, call), do: retry(call) == :safe and error.details["called"] == false

  # Once: the next time the error is the answer.
  defp again(call, failed, %Error{kind: kind}) when kind in [:worker_died, :port_closed],
    do: attempt(%{call | failed: failed, retry: false})

  defp again(call, failed, _error), do: attempt(%{call | failed: failed})

  defp retry(%{retry: nil, pool: pool, tried: [node | _rest]}),
    do: with(%{retry: retry} <- Loads.own(pool) || Loads.known(pool, node), do: retry)

  defp retry(%{retry: retry}), do: retry

  # Whether others have seen something of a call; `nil`: that is not known.
  defp called(%{named: {operation, args}} = call, seen?) do
    cond do
      seen? or CallbackRegistry.invoked?(call.functions) -> true
      operation not in @executes -> false
      operation in @seen_early -> if streams_module?(operation, args), do: false
      true -> if without_tools?(operation, args), do: false
    end
  end

  defp streams_module?(operation, [_pid, _ref | args]),
    do: operation == :stream_module and without_tools?(:execute_module, args)

  # A module of DSPy without tools asks models and the functions of the call, and nothing else. Which tools a stored program has,
  # or a module of the application, is not known here.
  defp without_tools?(:stream_batch, [_pid, _ref | args]),
    do: without_tools?(:execute_batch, args)

  defp without_tools?(operation, [module | _rest] = args)
       when operation in [:execute_module, :execute_batch],
       do: of_dspy?(module) and not tools?(List.last(args))

  defp without_tools?(_of_program, _args), do: false

  defp of_dspy?("dspy." <> _name), do: true

  defp of_dspy?(%{} = spec) do
    not tools?(spec) and
      Enum.all?([:module, "module", :of, "of"], fn key ->
        spec[key] == nil or of_dspy?(spec[key])
      end)
  end

  defp of_dspy?(name) when is_atom(name), do: name |> Atom.to_string() |> of_dspy?()
  defp of_dspy?(_other), do: false

  defp tools?(%{} = options),
    do: options[:tools] not in [nil, []] or options["tools"] not in [nil, []]

  defp tools?(_no_options), do: true

  defp refused({:versions, versions}, node) do
    Error.new(
      :pool_not_found,
      "node #{node} exchanges version #{Enum.map_join(versions, ", ", &inspect/1)} with other nodes, and not " <>
        "#{Membership.version()} as this node; run versions of :dspex that exchange the same"
    )
  end

  defp refused(:no_such_module, node) do
    Error.new(
      :pool_not_found,
      "node #{node} has a version of :dspex that takes no calls of other nodes; run the same version on both"
    )
  end

  defp refused(reason, node),
    do:
      Error.new(:port_closed, "node #{node} takes no call: #{inspect(reason)}", %{"sent" => false})

  defp left(%{deadline: deadline}),
    do: with(ms when is_integer(ms) <- Timeout.remaining(deadline, 0), do: max(ms, 1))

  # Python has what is left of the caller's time.
  defp within_what_is_left(%{args: args, tried: [_first | _rest], deadline: deadline} = call)
       when is_integer(deadline) do
    case List.last(args) do
      %{timeout: _ms} = options -> List.replace_at(args, -1, %{options | timeout: left(call)})
      _no_timeout -> args
    end
  end

  defp within_what_is_left(%{args: args}), do: args

  defp local({:worker, {_node, number}}), do: {:worker, number}
  defp local({:slot, _slot} = route), do: route
  defp local(_decided_there), do: nil

  defp log(%{pool: pool, named: {_operation, args}}) do
    case List.last(args) do
      %{request_id: id} when is_binary(id) -> [pool: pool, request_id: id]
      _none -> [pool: pool]
    end
  end
end
