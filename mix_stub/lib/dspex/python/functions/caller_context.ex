defmodule DSPex.Python.Functions.CallerContext do
  @moduledoc false

  # What a process that works on behalf of another one has from it, as a task has from its caller: `$callers`, by which
  # libraries such as Mox and Ecto's sandbox find a test, `$ancestors`, the metadata of Logger, and the current context of
  # OpenTelemetry, if the application uses `:opentelemetry_api`.
  #
  # A part of it goes to Python with each call, as text that Python cannot read: `$callers`, and the metadata that Python's log
  # entries are to have. It comes back with log entries, and with calls of functions that outlive a call.

  @enforce_keys [:callers, :ancestors, :metadata]
  defstruct @enforce_keys ++ [:otel]

  @type t :: %__MODULE__{
          callers: [pid()],
          ancestors: [pid() | atom()],
          metadata: map() | :undefined,
          otel: map() | nil
        }

  @doc """
  Returns what a process gets that works on behalf of the calling process.
  """
  @spec current() :: t()
  def current, do: Process.get(__MODULE__) || own()

  defp own do
    %__MODULE__{
      callers: [self() | Process.get(:"$callers") || []],
      ancestors: [name() | Process.get(:"$ancestors") || []],
      metadata: :logger.get_process_metadata(),
      otel: open_telemetry()
    }
  end

  defp open_telemetry do
    if function_exported?(:otel_ctx, :get_current, 0), do: apply(:otel_ctx, :get_current, [])
  end

  @doc """
  Makes the calling process work on behalf of the process that has made `context`.
  """
  @spec adopt(t()) :: :ok
  def adopt(%__MODULE__{} = context) do
    Process.put(:"$callers", context.callers)
    Process.put(:"$ancestors", context.ancestors)
    if is_map(context.metadata), do: :logger.set_process_metadata(context.metadata)

    if context.otel != nil and function_exported?(:otel_ctx, :attach, 1),
      do: apply(:otel_ctx, :attach, [context.otel])

    :ok
  end

  @doc """
  As `adopt/1`; and what works on behalf of the calling process works on behalf of that process instead, as if it had no part
  in it.
  """
  @spec stand_in(t()) :: :ok
  def stand_in(%__MODULE__{} = context) do
    Process.put(__MODULE__, context)
    adopt(context)
  end

  # Larger metadata is left out: a log is not for data.
  @max_bytes 4_096

  @doc """
  Returns the part for Python, with the metadata under these keys.
  """
  @spec to_text(t(), [atom()]) :: String.t()
  def to_text(%__MODULE__{} = context, keys) do
    metadata = if is_map(context.metadata), do: Map.take(context.metadata, keys), else: %{}

    case :erlang.term_to_binary({context.callers, metadata}) do
      term when byte_size(term) <= @max_bytes -> Base.encode64(term)
      _too_large -> {context.callers, %{}} |> :erlang.term_to_binary() |> Base.encode64()
    end
  end

  @doc """
  Reads what `to_text/2` has written: `$callers` and the metadata; both are empty for anything else.
  """
  @spec from_text(term()) :: {[pid()], map()}
  def from_text(text) when is_binary(text) do
    with {:ok, term} <- Base.decode64(text),
         {callers, %{} = metadata} when is_list(callers) <- :erlang.binary_to_term(term, [:safe]) do
      {callers, metadata}
    else
      _other -> {[], %{}}
    end
  rescue
    ArgumentError -> {[], %{}}
  end

  def from_text(_other), do: {[], %{}}

  @doc """
  Adds what `from_text/1` returns of the call for which a function runs that was registered before it: such as a model of a pool.
  """
  @spec add(t(), {[pid()], map()}) :: t()
  def add(%__MODULE__{} = context, {callers, metadata}) do
    own = if is_map(context.metadata), do: context.metadata, else: %{}

    %{
      context
      | callers: Enum.uniq(context.callers ++ callers),
        metadata: Map.merge(metadata, own)
    }
  end

  # OTP writes a process into `$ancestors` by its name, if it has one.
  defp name do
    case Process.info(self(), :registered_name) do
      {:registered_name, name} when is_atom(name) -> name
      _no_name -> self()
    end
  end
end
