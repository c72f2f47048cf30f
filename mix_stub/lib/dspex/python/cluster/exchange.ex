defmodule DSPex.Python.Cluster.Exchange do
  @moduledoc false

  # What nodes exchange, in this version. A request is the argument of a process that the asking node spawns on the other
  # one, by `:dspex_cluster.serve/1` (DSPex.Python.Cluster.Served):
  #
  #     {:dspex, version, from, reply_to, kind, request}
  #
  #     from       the process that asks; the work is dropped when it ends
  #     reply_to   an alias of it
  #     kind       :call       an operation of a pool of the other node
  #                :about      a question about such a pool, without its Python
  #                :configure  a model for such a pool
  #                :function   a function that the other node has registered for Python
  #     request    a map with atom keys, see DSPex.Python.Cluster.Served
  #
  # Back come messages `{reply_to, reply}`:
  #
  #     {:event, message}          an event of a stream, as the relay of the stream gets it
  #     {:worker, number}          the worker that gets the call
  #     {:answer, result, load}    the result, and the load of the pool
  #
  # and from the asking node `{:dspex_cancel, reply_to}`, if it does not wait any more. A request of another version is refused: its process exits with
  # `{:shutdown, {:dspex_refused, versions}}`. The first two elements stay the same in all versions.
  #
  # Structs do not cross: nodes may run versions of the application with other fields.

  alias DSPex.Python.Error
  alias DSPex.Python.Pool.Membership

  @type kind :: :call | :about | :configure | :function
  @type load :: %{optional(atom()) => term()} | nil
  @type reply ::
          {:event, tuple()} | {:worker, pos_integer()} | {:answer, term(), load()}

  @doc """
  Writes a request of the calling process.
  """
  @spec request(reference(), kind(), map()) :: tuple()
  def request(reply_to, kind, request),
    do: {:dspex, Membership.version(), self(), reply_to, kind, request}

  @doc """
  Reads a request; `{:refused, versions}` with the versions that this node understands if it is of another one.
  """
  @spec read(term()) ::
          {:ok, {pid(), reference(), kind(), map()}} | {:refused, [pos_integer()]}
  def read({:dspex, version, from, reply_to, kind, request}) do
    if version == Membership.version() and is_pid(from) and is_reference(reply_to) and
         kind in [:call, :about, :configure, :function] and is_map(request),
       do: {:ok, {from, reply_to, kind, request}},
       else: {:refused, [Membership.version()]}
  end

  def read(_other_version), do: {:refused, [Membership.version()]}

  @doc """
  Writes the result of a call.
  """
  @spec from_result(term()) :: term()
  def from_result({:error, %Error{} = error}), do: {:error, Map.from_struct(error)}
  def from_result(result), do: result

  @doc """
  Reads the result of a call.
  """
  @spec to_result(term()) :: term()
  def to_result({:error, %{kind: _kind, details: _details} = error}),
    do: {:error, struct(Error, error)}

  def to_result(result), do: result
end
