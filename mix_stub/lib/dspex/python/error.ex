defmodule DSPex.Python.Error do
  @moduledoc """
  What went wrong with a call: an answer, not a crash.

  `DSPex.Python` returns it in `{:error, error}`; it is an exception, so that `raise error` works too. What `inspect`
  shows is what one needs at a glance; `error.traceback` and `error.details` have the rest.

  ## Fields

    * `:kind` - what to match on: one of `kinds/0`
    * `:type` - the name of the Python exception, such as `"ValueError"`
    * `:message` - what was wrong, where, what came, and the remedy
    * `:path` - the way to the wrong value, such as `"inputs.question"`, where there is one
    * `:stage` - where the time of a timeout went, where it is known
    * `:retryable` - whether the same call may succeed later
    * `:traceback` - Python's own lines, oldest first
    * `:details` - everything Python told, as a map with string keys (`"status"`, `"retry_after"`, `"provider"`, …)
  """

  # The kinds of Python's details map (conformance/errors.tsv) ...
  @python_kinds ~w(module_not_found signature input session_not_found program_not_found lm_not_configured provider
                   auth billing rate_limit timeout transport server context_window unsupported_model parse tool
                   sandbox missing_dependency overloaded cancelled store encode internal)a
  # ... and what only this side can see.
  @port_kinds ~w(pool_not_found port_closed)a
  @kinds @python_kinds ++ @port_kinds
  @kind_of_name Map.new(@kinds, &{Atom.to_string(&1), &1})

  # The type and retryable of an error that is made in Elixir.
  @types %{
    input: {"ValueError", false},
    lm_not_configured: {"LMNotConfiguredError", false},
    timeout: {"TimeoutError", true},
    missing_dependency: {"MissingDependencyError", false},
    internal: {"InternalError", false},
    pool_not_found: {"PoolNotFoundError", false},
    port_closed: {"PortClosedError", true}
  }

  defexception [
    :kind,
    :type,
    :message,
    :path,
    :stage,
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
          details: %{optional(String.t()) => term()}
        }

  @doc """
  Every kind there is.

      iex> :rate_limit in DSPex.Python.Error.kinds()
      true
  """
  @spec kinds() :: [atom()]
  def kinds, do: @kinds

  @doc """
  Makes an error of a details map, as Python sends it.

  A kind that this version does not know becomes `:internal`; its name is still in `details`.

      iex> error = DSPex.Python.Error.from_details(%{"kind" => "input", "type" => "ValueError", "message" => "no"})
      iex> {error.kind, Exception.message(error)}
      {:input, "no"}
  """
  @spec from_details(map()) :: t()
  def from_details(details) when is_map(details) do
    %__MODULE__{
      kind: Map.get(@kind_of_name, details["kind"], :internal),
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

  @doc false
  # An exception that left Python's runtime itself: a function that is no operation, arguments that are no terms.
  @spec from_exception(term()) :: t()
  def from_exception({:python, class, message, traceback}) do
    new(:internal, text(message, "python gave no message"), %{
      "type" => name(class),
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

  defimpl Inspect do
    import Inspect.Algebra

    # A line of IEx or of a log is for what went wrong. The type follows from the kind; a traceback is long, and
    # `details` say it all again.
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
