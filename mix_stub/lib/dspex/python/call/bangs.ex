defmodule DSPex.Python.Call.Bangs do
  @moduledoc false

  # Writes for each function of a module whose spec returns `result(type)`, that is `{:ok, type}` or `{:error, error}`, the function
  # with `!`, which returns `type` or raises the error: with the same arguments and defaults, a spec and documentation.

  alias DSPex.Python.Error

  defmacro __using__(_options) do
    quote do
      Module.register_attribute(__MODULE__, :heads, accumulate: true)
      @on_definition unquote(__MODULE__)
      @before_compile unquote(__MODULE__)
    end
  end

  @doc false
  # Keeps the arguments of a public function, with their defaults.
  def __on_definition__(env, :def, name, args, _guards, _body),
    do: Module.put_attribute(env.module, :heads, {name, args})

  def __on_definition__(_env, _kind, _name, _args, _guards, _body), do: :ok

  defmacro __before_compile__(env) do
    heads = Module.delete_attribute(env.module, :heads)

    for {:spec, spec, _where} <- Module.get_attribute(env.module, :spec),
        {name, types, {:result, _meta, [type]}, variables} <- [parts(spec)],
        args = args(heads, name, length(types)),
        do: bang(name, args, types, type, variables)
  end

  @doc """
  Returns the value of a result, or raises its error.
  """
  @spec value!({:ok, value} | {:error, Error.t()}) :: value when value: term()
  def value!({:ok, value}), do: value
  def value!({:error, error}), do: raise(error)

  defp parts({:when, _meta, [spec, variables]}), do: spec |> parts() |> put_elem(3, variables)
  defp parts({:"::", _meta, [{name, _, types}, returned]}), do: {name, types, returned, []}

  defp args(heads, name, arity) do
    Enum.find_value(heads, fn
      {^name, args} when length(args) == arity -> args
      _other -> nil
    end)
  end

  defp bang(name, args, types, type, variables) do
    bang = :"#{name}!"
    given = Enum.map(args, &without_default/1)

    quote do
      @doc """
      Does what `#{unquote(name)}/#{unquote(length(args))}` does, but returns the result itself, and raises the
      `DSPex.Python.Error` of a call that failed.
      """
      @spec unquote(bang)(unquote_splicing(types)) :: unquote(type) when unquote(variables)
      def unquote(bang)(unquote_splicing(args)),
        do: unquote(__MODULE__).value!(unquote(name)(unquote_splicing(given)))
    end
  end

  defp without_default({:\\, _meta, [arg, _default]}), do: arg
  defp without_default(arg), do: arg
end
