defmodule DSPex.Python.Wire.Limits do
  @moduledoc false

  # The limits that Elixir checks before anything is sent; docs/operations.md has the table of all limits, and Python's
  # are in erlport_bridge/limits.py. What Python can check at no greater cost is not checked here too.

  alias DSPex.Python.Error

  @mebibyte 1024 * 1024
  @least_bytes 64 * 1024

  @doc """
  Returns the defaults of the options of a pool that are limits of bytes.
  """
  @spec defaults() :: %{max_request_bytes: pos_integer(), max_answer_bytes: pos_integer()}
  def defaults, do: %{max_request_bytes: 256 * @mebibyte, max_answer_bytes: 256 * @mebibyte}

  @doc """
  Returns the least value of these options: every error answer fits into it.
  """
  @spec least_bytes() :: pos_integer()
  def least_bytes, do: @least_bytes

  @doc """
  Returns how many modules may run one another.
  """
  @spec max_modules() :: pos_integer()
  def max_modules, do: 5

  @doc """
  Returns how deep the parameters of a tool may nest, as a term.
  """
  @spec max_depth() :: pos_integer()
  def max_depth, do: 100

  @doc """
  Tells whether a term nests deeper than `depth` levels, without a look at what is deeper.

      iex> {DSPex.Python.Wire.Limits.deeper?([{%{}}], 2), DSPex.Python.Wire.Limits.deeper?([{%{a: 1}}], 2)}
      {false, true}
  """
  @spec deeper?(term(), non_neg_integer()) :: boolean()
  def deeper?([], _depth), do: false
  def deeper?([_first | _rest], 0), do: true
  def deeper?([_first | _rest] = list, depth), do: any_deeper?(list, depth - 1)
  def deeper?(map, depth) when map == %{} or map == {}, do: depth < 0
  def deeper?(term, 0), do: is_map(term) or is_tuple(term)

  def deeper?(map, depth) when is_map(map),
    do:
      Enum.any?(Map.to_list(map), fn {key, value} ->
        deeper?(key, depth - 1) or deeper?(value, depth - 1)
      end)

  def deeper?(tuple, depth) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> any_deeper?(depth - 1)

  def deeper?(_term, _depth), do: false

  # A list may be improper.
  defp any_deeper?([first | rest], depth), do: deeper?(first, depth) or any_deeper?(rest, depth)
  defp any_deeper?([], _depth), do: false
  defp any_deeper?(tail, depth), do: deeper?(tail, depth)

  @doc """
  Checks the size of the arguments of a call, as terms.
  """
  @spec check_request(term(), pos_integer()) :: :ok | {:error, Error.t()}
  def check_request(args, max_bytes) do
    size = :erlang.external_size(args)
    if size <= max_bytes, do: :ok, else: {:error, too_large(size, max_bytes)}
  end

  @doc """
  Checks the size of a function's result; the error is a sentence.
  """
  @spec check_result(term(), pos_integer()) :: :ok | {:error, String.t()}
  def check_result(result, max_bytes) do
    size = :erlang.external_size(result)

    if size <= max_bytes,
      do: :ok,
      else: {:error, expected(max_bytes, "the result", size)}
  end

  @doc """
  Returns the error about a call whose arguments are too large.
  """
  @spec too_large(non_neg_integer(), pos_integer()) :: Error.t()
  def too_large(size, max_bytes) do
    facts = %{"path" => "arguments", "limit" => max_bytes, "option" => "max_request_bytes"}
    Error.new(:input, expected(max_bytes, "arguments", size), facts)
  end

  defp expected(max_bytes, where, size) do
    "expected at most #{max_bytes} bytes at #{where}, got #{size}; max_request_bytes sets this limit"
  end
end
