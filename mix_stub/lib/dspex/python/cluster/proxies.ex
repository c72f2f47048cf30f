defmodule DSPex.Python.Cluster.Proxies do
  @moduledoc false

  # Functions of the node of the caller, as Python on another node calls them. They stay where they are; the node with Python
  # registers a proxy for each, under the same id, which asks for the result.

  alias DSPex.Python.Cluster.Remote
  alias DSPex.Python.{Callbacks, Error, Pool}
  alias DSPex.Python.Functions.{Callback, Model, ModelRequests}
  alias DSPex.Python.Pool.PoolModel

  @unreachable "the node of the function cannot be reached"
  # Between the name of a node and the token that Python there has given to a request to a model.
  @separator "|"

  @doc """
  Describes functions that are registered on this node for another one.
  """
  @spec described([Callback.t()], keyword()) :: [map()]
  def described(callbacks, log),
    do: for(%{id: id, name: name} <- callbacks, do: %{id: id, name: name, log: log})

  @doc """
  Runs `work` while Python of this node may call functions of `node`.
  """
  @spec during([map()], node(), (... -> result)) :: result when result: term()
  def during(functions, node, work), do: functions |> proxies(node) |> Callbacks.during(work)

  @doc """
  Configures a model for a pool of this node, or for a session of it. Its functions are those of `node`.
  """
  @spec configure(map(), node()) :: {:ok, term()} | {:error, Error.t()}
  def configure(%{pool: pool} = request, node) do
    configure(
      pool,
      request.session_id,
      model(request.model, node),
      request.options,
      request.timeout
    )
  end

  defp model({:resolved, configured, functions}, node),
    do: {:resolved, configured, proxies(functions, node)}

  defp model(model, _node), do: model

  defp configure(pool, session_id, model, options, timeout) do
    with {:ok, {provider, config}, callbacks} <-
           Model.resolve_checked(model, Pool.caller(pool)) do
      PoolModel.configure(pool, session_id, model, callbacks, timeout, fn route ->
        pool
        |> Pool.call(:configure_lm, [provider, config, options], timeout, route: route)
        |> configured()
      end)
    end
  end

  defp configured({:ok, {:error, {:python_exception, details}}}),
    do: {:error, Error.from_details(details)}

  defp configured({:ok, {:ok, model}}), do: {:ok, model}
  defp configured({:error, _error} = error), do: error

  @doc """
  Returns the node whose Python has given this token to a request, and the token as it is there; `nil`: this node.
  """
  @spec node_of_token(term()) :: {node(), String.t()} | nil
  def node_of_token(token) when is_binary(token) do
    with [name, token] <- String.split(token, @separator, parts: 2),
         node when node != nil <- Enum.find([node() | Node.list()], &(to_string(&1) == name)) do
      {node, token}
    else
      _own -> nil
    end
  end

  def node_of_token(_no_token), do: nil

  # On their own node they are registered already.
  defp proxies(_functions, node) when node == node(), do: []

  defp proxies(functions, node) do
    for %{id: id, name: name, log: log} <- functions do
      ask = &ask(node, %{id: id, log: log}, &1, &2)
      %{Callback.new(name, ask, :infinity) | id: id, proxy?: true}
    end
  end

  # Called in the process of the function, which is killed when the call ends, or the request is cancelled.
  defp ask(node, request, reference, arguments) do
    id = if reference, do: "#{request.id}/#{reference}", else: request.id
    request = Map.merge(request, %{id: id, arguments: with_node(arguments)})

    case Remote.ask(node, :function, request, :infinity) do
      {:answer, {:ok, value}} -> {:ok, value}
      {:answer, {:error, sentence}} when is_binary(sentence) -> {:error, sentence}
      {:answer, {:error, %Error{message: message}}} -> {:error, message}
      _unreachable -> {:error, @unreachable}
    end
  end

  # So that pieces of the answer find the Python that has asked for it, and Python can end the request here.
  defp with_node(%{"token" => token, "request" => _request} = arguments) when is_binary(token) do
    ModelRequests.register(token)
    %{arguments | "token" => "#{node()}#{@separator}#{token}"}
  end

  defp with_node(arguments), do: arguments
end
