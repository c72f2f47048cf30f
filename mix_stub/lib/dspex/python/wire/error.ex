defmodule DSPex.Python.Error do
  @moduledoc """
  Describes what went wrong with a call: an answer, not a crash.

  `DSPex.Python` returns it in `{:error, error}`. It is an exception, so `raise error` works too. `inspect` shows the
  most important fields; `error.traceback` and `error.details` have the rest. `to_string/1` gives the message. Jason and Elixir's `JSON`
  encode an error as a map of `kind`, `type`, `message`, `path`, `stage` and `retryable`.

  ## Fields

    * `:kind` - what to match on: one of `kinds/0`
    * `:type` - the name of the Python exception, such as `"ValueError"`
    * `:message` - what was wrong, where, what came, and the remedy
    * `:path` - the path of the wrong value, such as `"inputs.question"`, or `nil`
    * `:stage` - where the time of a timeout went, or `nil`
    * `:retryable` - whether the same call may succeed later
    * `:traceback` - Python's own lines, oldest first
    * `:trace` - what happened in the call, a `DSPex.Trace`, if it was asked for by the option `trace: true`
    * `:details` - everything that Python sent, as a map with string keys (`"status"`, `"retry_after"`, `"provider"`, …)
  """

  # The kinds of Python's details map (conformance/errors.tsv) ...
  @python_kinds ~w(module_not_found signature input session_not_found program_not_found lm_not_configured provider
                   auth billing budget rate_limit timeout transport server context_window unsupported_model parse tool
                   sandbox missing_dependency overloaded cancelled store conflict encode internal)a
  # ... and the kinds that only Elixir can see.
  @port_kinds ~w(pool_not_found port_closed worker_died)a
  @kinds @python_kinds ++ @port_kinds
  @kind_of_name Map.new(@kinds, &{Atom.to_string(&1), &1})

  # The type of an error that is made in Elixir, and whether it is retryable.
  @types %{
    input: {"ValueError", false},
    lm_not_configured: {"LMNotConfiguredError", false},
    timeout: {"TimeoutError", true},
    provider: {"ProviderError", false},
    missing_dependency: {"MissingDependencyError", false},
    internal: {"InternalError", false},
    pool_not_found: {"PoolNotFoundError", false},
    port_closed: {"PortClosedError", true},
    worker_died: {"WorkerDiedError", true},
    overloaded: {"OverloadedError", true},
    cancelled: {"CancelledError", true}
  }

  defexception [
    :kind,
    :type,
    :message,
    :path,
    :stage,
    :trace,
    retryable: false,
    traceback: [],
    details: %{}
  ]

  @type t :: %__MODULE__{
          kind: atom(),
          type: String.t(),
          message: String.t(),
          path: String.t() | nil,
          stage: String.t() | nil,
          retryable: boolean(),
          traceback: [String.t()],
          trace: DSPex.Trace.t() | nil,
          details: %{optional(String.t()) => term()}
        }

  @doc """
  Returns every kind.

      iex> :rate_limit in DSPex.Python.Error.kinds()
      true
  """
  @spec kinds() :: [atom()]
  def kinds, do: @kinds

  @doc """
  Makes an error from the details map that Python sends.

  A kind that this version does not know becomes `:internal`; its name is still in `details`.

      iex> error = DSPex.Python.Error.from_details(%{"kind" => "input", "type" => "ValueError", "message" => "no"})
      iex> {error.kind, Exception.message(error)}
      {:input, "no"}
  """
  @spec from_details(map()) :: t()
  def from_details(details) when is_map(details) do
    {trace, details} = Map.pop(details, "trace")

    %__MODULE__{
      kind: kind(details["kind"]),
      trace: trace,
      type: text(details["type"], "InternalError"),
      message: text(details["message"], "python gave no message"),
      path: details["path"],
      stage: details["stage"],
      retryable: details["retryable"] == true,
      traceback: List.wrap(details["traceback"]),
      details: details
    }
  end

  @doc false
  # Returns the kind of a name; `:internal` for one that this version does not know.
  @spec kind(term()) :: atom()
  def kind(name), do: Map.get(@kind_of_name, name, :internal)

  @doc false
  @spec new(atom(), String.t(), map()) :: t()
  def new(kind, message, facts \\ %{}) do
    {type, retryable} = Map.fetch!(@types, kind)

    %{
      "kind" => Atom.to_string(kind),
      "type" => type,
      "message" => message,
      "path" => nil,
      "traceback" => [],
      "retryable" => retryable
    }
    |> Map.merge(facts)
    |> from_details()
  end

  @doc false
  @spec timeout(timeout(), String.t(), String.t()) :: t()
  def timeout(timeout, stage, cause) do
    new(:timeout, "no answer within #{timeout} ms: #{cause}", %{"stage" => stage})
  end

  # The class of Python's exception about a call of a function that is not an operation.
  @unknown_operation "erlport_bridge.errors.UnknownOperationError"

  @doc false
  # Makes an error from an exception of Python's runtime itself, such as for a function that is not an operation.
  @spec from_exception(term()) :: t()
  def from_exception({:python, class, message, traceback}) do
    type = name(class)
    kind = if type == @unknown_operation, do: :input, else: :internal

    new(kind, text(message, "python gave no message"), %{
      "type" => type,
      "path" => if(kind == :input, do: "operation"),
      "traceback" => traceback |> List.wrap() |> Enum.filter(&is_binary/1)
    })
  end

  def from_exception(reason),
    do: new(:internal, "python answered with an error: #{inspect(reason)}")

  defp text(text, _default) when is_binary(text) and text != "", do: text
  defp text(_other, default), do: default

  defp name(class) when is_atom(class), do: Atom.to_string(class)
  defp name(class) when is_binary(class), do: class
  defp name(class), do: inspect(class)

  defimpl String.Chars do
    def to_string(error), do: Exception.message(error)
  end

  defimpl Inspect do
    import Inspect.Algebra

    # IEx and logs show what went wrong. The type follows from the kind; the traceback is long, and `details` repeat
    # the other fields.
    def inspect(error, options) do
      shown =
        for name <- [:kind, :message, :path, :stage, :retryable],
            value = Map.fetch!(error, name),
            do: {name, value}

      entry = fn {name, value}, options ->
        concat([to_string(name), ": ", to_doc(value, options)])
      end

      container_doc("#DSPex.Python.Error<", shown, ">", options, entry, break: :strict)
    end
  end
end
