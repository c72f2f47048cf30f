defmodule DSPex.Python.Arguments do
  @moduledoc false

  # The arguments of operations, as Python takes them.

  alias DSPex.Program
  alias DSPex.Python.{CallOptions, Error}

  @doc """
  The session, the id and the options of a call of a program.
  """
  @spec program_target(Program.t() | String.t(), keyword() | map()) ::
          {String.t() | nil, term(), map()}
  def program_target(%Program{} = program, options) do
    options =
      options
      |> CallOptions.new!()
      |> Map.put(:pool, program.pool)
      |> Map.put_new(:version, program.version)

    {program.session_id, program.id, options}
  end

  def program_target(program_id, options) do
    # Without a session, Python finds the program by its id, which is unique in the pool.
    {session_id, options} = options |> CallOptions.new!() |> Map.pop(:session_id)
    {session_id, program_id, options}
  end

  @doc """
  The same for a compilation: it takes as long as it takes, unless somebody says otherwise.
  """
  @spec compile_target(Program.t() | String.t(), keyword() | map()) ::
          {String.t() | nil, term(), map()}
  def compile_target(program, options) do
    {session_id, program_id, options} = program_target(program, options)
    {session_id, program_id, Map.put_new(options, :timeout, :infinity)}
  end

  @doc """
  Inputs as a map. What is none is left to Python to say.
  """
  @spec python_inputs(term()) :: term()
  def python_inputs([{name, _value} | _rest] = inputs) when is_atom(name), do: Map.new(inputs)
  def python_inputs(inputs), do: inputs

  @doc """
  A list of them. What is no list is left to Python to say.
  """
  @spec python_inputs_list(term()) :: term()
  def python_inputs_list(inputs) when is_list(inputs), do: Enum.map(inputs, &python_inputs/1)
  def python_inputs_list(other), do: other

  @doc """
  The spec of a program, with its model in the form of Python. Text instead of a map, and the like, is left to Python to say.
  """
  @spec python_spec(term(), atom()) :: {:ok, term()} | {:error, Error.t()}
  def python_spec(spec, pool) do
    spec = if spec != [] and Keyword.keyword?(spec), do: Map.new(spec), else: spec

    case is_map(spec) and CallOptions.with_model(spec, pool) do
      false ->
        {:ok, spec}

      {:ok, spec, []} ->
        {:ok, spec}

      {:ok, _spec, _callbacks} ->
        message =
          "expected no function of Elixir at spec.lm, which would have to outlive the call; configure it for the " <>
            "program's session: DSPex.Python.configure_lm(:elixir, function, session_id: …)"

        {:error, Error.new(:input, message, %{"path" => "spec.lm"})}

      {:error, _error} = error ->
        error
    end
  end
end
