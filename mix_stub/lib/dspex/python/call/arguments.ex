defmodule DSPex.Python.Call.Arguments do
  @moduledoc false

  # Converts the arguments of operations to the form that Python takes. Python refuses wrong arguments itself.

  alias DSPex.Program
  alias DSPex.Python.Call.CallOptions
  alias DSPex.Python.Error
  alias DSPex.Python.Wire.Keywords

  @doc """
  Returns the session, the id and the options of a call of a program.
  """
  @spec program_target(Program.t() | String.t() | atom(), CallOptions.t()) ::
          {String.t() | nil, term(), CallOptions.t()}
  def program_target(%Program{} = program, options) do
    options = CallOptions.put_new(in_pool(options, program), :version, program.version)
    {program.session_id, program.id, options}
  end

  def program_target(program_id, options) do
    # Without a session, Python finds the program by its id, which is unique in the pool. The session stays among the
    # options, because it says there whose conversation it is.
    {options.python[:session_id], program_id, options}
  end

  @doc """
  Returns the same for a call that executes nothing: another session than the program's means nothing there, and is an error.
  """
  @spec looked_up(Program.t() | String.t() | atom(), CallOptions.t()) ::
          {String.t() | nil, term(), CallOptions.t()}
  def looked_up(program, options) do
    options = options |> in_pool(program) |> in_session(program)

    case program do
      %Program{} -> {program.session_id, program.id, options}
      program_id -> {options.python[:session_id], program_id, options}
    end
  end

  defp in_session(%{once: :ok, python: %{session_id: given}} = options, program)
       when given != nil do
    case check_session(given, program) do
      :ok ->
        options

      {:error, message} ->
        facts = %{"path" => "opts.session_id"}
        %{options | once: {:error, Error.new(:input, message, facts)}}
    end
  end

  defp in_session(options, _program), do: options

  # Python takes a charlist and an atom as text too.
  defp check_session(given, _program)
       when not (is_binary(given) or is_list(given) or is_atom(given)) or is_boolean(given) or
              given in ["", []] do
    {:error, "expected a string at opts.session_id, got #{inspect(given, limit: 5)}"}
  end

  defp check_session(given, %Program{session_id: session_id}) do
    if same?(given, session_id),
      do: :ok,
      else:
        {:error,
         "expected session #{inspect(session_id)} at opts.session_id, of which the program is, got #{inspect(given, limit: 5)}: " <>
           "leave the option out, or give the program's id in place of the program"}
  end

  defp check_session(_given, _program_id), do: :ok

  defp same?(given, session_id) when is_list(given),
    do: is_binary(session_id) and given == String.to_charlist(session_id)

  defp same?(given, session_id), do: to_string(given) == session_id

  @doc """
  Returns the options with the pool of the program; the call is an error if they name another one.
  """
  @spec in_pool(CallOptions.t(), Program.t() | term()) :: CallOptions.t()
  def in_pool(%{pool_given?: true, pool: other} = options, %Program{pool: pool})
      when other != pool do
    message =
      "expected pool #{inspect(pool)} at opts.pool, of which the program is, got #{inspect(other)}: leave the option out, " <>
        "or give the program's id in place of the program if that pool knows it"

    %{options | once: {:error, Error.new(:input, message, %{"path" => "opts.pool"})}}
  end

  def in_pool(options, %Program{pool: pool}), do: %{options | pool: pool}
  def in_pool(options, _program_id), do: options

  @doc """
  Converts inputs to a map. Python refuses the pairs of a keyword list that has a key twice.
  """
  @spec python_inputs(term()) :: term()
  def python_inputs([{name, _value} | _rest] = inputs) when is_atom(name) do
    if Keyword.keyword?(inputs) and Keywords.repeated(inputs, "inputs"),
      do: inputs,
      else: Map.new(inputs)
  end

  def python_inputs(inputs), do: inputs

  @doc """
  Converts a list of inputs to a list of maps.
  """
  @spec python_inputs_list(term()) :: term()
  def python_inputs_list(inputs) when is_list(inputs) do
    # Python refuses an improper list with the place.
    if List.improper?(inputs), do: inputs, else: Enum.map(inputs, &python_inputs/1)
  end

  def python_inputs_list(other), do: other
end
