defmodule DSPex.Python.Wire.Protocol do
  @moduledoc false

  # Encodes and decodes the messages on the port, without any process. A frame is one external term:
  #
  #     to Python    {:C, id, :dspy_bridge, operation, args}
  #                  {:M, {:"$cancel", id}} when no process waits for the answer any more
  #     from Python  {:r, id, result} | {:e, id, {:python, class, message, traceback}}
  #
  # Calls that Python makes have ids of Python's own:
  #
  #     from Python  {:C, id, DSPex.Python.Callbacks, :call, args, :N}
  #                  {:M, pid, term} to a process
  #                  {:L, dropped, entries} for the log
  #                  {:R, reason} when Python asks to be replaced
  #     to Python    {:r, id, result} | {:e, id, sentence}
  #
  # The calling process encodes its call and decodes the answer, so that many callers use many cores. The owner of the
  # port only reads the id (peek/1).
  #
  # Source: https://www.erlang.org/doc/apps/erts/erl_ext_dist.html

  alias DSPex.Python.Error
  alias DSPex.Python.Wire.Limits

  @version 131
  @small_tuple 104
  @small_integer 97
  @integer 98
  @binary_tag 109
  @small_atom_utf8 119
  # The largest id that INTEGER_EXT holds.
  @max_id 0x7FFFFFFF

  # Atoms inside of a term have no version byte.
  @result_atom :r |> :erlang.term_to_binary() |> then(&binary_part(&1, 1, byte_size(&1) - 1))
  @failure_atom :e |> :erlang.term_to_binary() |> then(&binary_part(&1, 1, byte_size(&1) - 1))
  # The first bytes of every call, up to its id of four bytes. Atoms are in UTF-8, the default of OTP 26 and newer, so
  # the length does not depend on where this is compiled and where it runs.
  @call_head <<@version, @small_tuple, 5, @small_atom_utf8, 1, "C", @integer>>
  @encoding [minor_version: 2]
  # A smaller call holds no binary that is large enough to be referred to instead of copied.
  @small_bytes 4_096

  @typedoc "An encoded call without its id."
  @opaque request :: iodata()
  @typedoc "An encoded result without its id."
  @opaque encoded_result :: iodata()
  @type id :: 1..unquote(@max_id)

  @doc """
  Returns the largest call id; after it ids begin at 1 again.
  """
  @spec max_id() :: pos_integer()
  def max_id, do: @max_id

  @doc """
  Encodes a call without its id. Large binaries are referred to, not copied. Returns an error for a call of more than
  `max_bytes`.
  """
  @spec encode_request(atom(), [term()], pos_integer()) :: request() | {:error, Error.t()}
  def encode_request(operation, args, max_bytes \\ Limits.defaults().max_request_bytes)
      when is_atom(operation) and is_list(args) do
    # Encoding the parts one by one takes longer.
    call = {:C, @max_id, :dspy_bridge, operation, args}
    size = :erlang.external_size(call)

    cond do
      size < @small_bytes ->
        # term_to_binary takes a third of the time of term_to_iovec here.
        <<@call_head, @max_id::32, start::binary>> = :erlang.term_to_binary(call, @encoding)
        [start]

      size <= max_bytes ->
        [<<@call_head, @max_id::32, start::binary>> | rest] =
          :erlang.term_to_iovec(call, @encoding)

        [start | rest]

      true ->
        {:error, Limits.too_large(size, max_bytes)}
    end
  end

  @doc """
  Returns the frame of a call, without the length that the port puts before it.
  """
  @spec frame(id(), request()) :: iodata()
  def frame(id, request), do: [<<@call_head, id::32>> | request]

  @doc """
  Returns the frame that tells Python that no process waits for the answer to a call.
  """
  @spec cancel_frame(id()) :: iodata()
  def cancel_frame(id), do: :erlang.term_to_iovec({:M, {:"$cancel", id}})

  @doc """
  Reads the kind of a frame and its id from its first bytes.

  Returns `{:answer, id}`, `{:call, id}`, `{:message, name}` for any other message of the protocol, or `:malformed`.
  """
  @spec peek(binary()) ::
          {:answer, non_neg_integer()}
          | {:call, non_neg_integer()}
          | {:message, String.t()}
          | :malformed
  # The form in which our Python writes answers, the most frequent frame; ErlPort's Python writes other forms.
  def peek(<<@version, @small_tuple, 3, @small_atom_utf8, 1, "r", @integer, id::32, _::binary>>),
    do: {:answer, id}

  def peek(<<@version, @small_tuple, arity, rest::binary>>) do
    with {:ok, name, rest} <- atom_text(rest), do: peek_id(name, arity, rest)
  end

  def peek(_frame), do: :malformed

  @doc """
  Decodes an answer. Never makes an atom: an atom that does not exist yet is an error.

  The class of an exception may have any name, so it is read as a binary.
  """
  @spec decode_answer(binary()) :: {:ok, term()} | {:error, Error.t()}
  def decode_answer(frame) do
    case frame |> class_as_binary() |> :erlang.binary_to_term([:safe]) do
      {:r, _id, result} -> {:ok, result}
      {:e, _id, reason} -> {:error, Error.from_exception(reason)}
    end
  rescue
    ArgumentError ->
      {:error,
       Error.new(
         :internal,
         "python's answer is no term, or has an atom that this node does not know"
       )}
  end

  @doc """
  Decodes a call that Python makes. Never makes an atom: an atom that does not exist yet is an error.
  """
  @spec decode_call(binary()) :: {:ok, atom(), atom(), [term()]} | :error
  def decode_call(frame) do
    case :erlang.binary_to_term(frame, [:safe]) do
      {:C, _id, module, function, args, :N} -> {:ok, module, function, args}
      _other -> :error
    end
  rescue
    ArgumentError -> :error
  end

  @doc """
  Decodes a message from Python to a process of this node. Never makes an atom.
  """
  @spec decode_message(binary()) :: {:ok, pid(), term()} | :error
  def decode_message(frame) do
    case :erlang.binary_to_term(frame, [:safe]) do
      {:M, pid, message} when is_pid(pid) and node(pid) == node() -> {:ok, pid, message}
      _other -> :error
    end
  rescue
    ArgumentError -> :error
  end

  @doc """
  Decodes why Python asks to be replaced, `{:R, kind, reason}`: in one word, and in a sentence.
  """
  @spec decode_recycling(binary()) :: {String.t(), String.t()}
  def decode_recycling(frame) do
    case :erlang.binary_to_term(frame, [:safe]) do
      {:R, kind, reason} when is_binary(kind) and is_binary(reason) -> {kind, reason}
      _other -> {"unknown", "it gave no reason"}
    end
  rescue
    ArgumentError -> {"unknown", "it gave no reason"}
  end

  @doc """
  Encodes the result of a call that Python made, without the id.
  """
  @spec encode_result(term()) :: encoded_result()
  def encode_result(result) do
    [<<@version, start::binary>> | rest] = :erlang.term_to_iovec(result)
    [start | rest]
  end

  @doc """
  Returns the frame of an answer to Python: an encoded result, or a sentence about what went wrong.
  """
  @spec answer_frame(id(), {:ok, encoded_result()} | {:error, String.t()}) :: iodata()
  def answer_frame(id, {:ok, encoded}), do: [answer_head(@result_atom, id) | encoded]

  def answer_frame(id, {:error, sentence}),
    do: [answer_head(@failure_atom, id) | encode_result(sentence)]

  @doc false
  # Returns atoms of answers. Without this list, code that mentions them may not be loaded when the first answer comes.
  @spec known_atoms() :: [atom()]
  def known_atoms do
    [:python_exception, :python, :nan, :infinity, :neg_infinity, :"$erlport.opaque", :erlang] ++
      [:M, :dspex_stream] ++
      [DateTime, NaiveDateTime, Date, Time, MapSet, Range, Decimal, Calendar.ISO] ++
      [:calendar, :year, :month, :day, :hour, :minute, :second, :microsecond] ++
      [
        :std_offset,
        :utc_offset,
        :time_zone,
        :zone_abbr,
        :sign,
        :coef,
        :exp,
        :first,
        :last,
        :step,
        :map,
        :inf
      ]
  end

  defp answer_head(name, id), do: [<<@version, @small_tuple, 3>>, name, <<@integer, id::32>>]

  defp peek_id(name, 3, <<@small_integer, id, _rest::binary>>) when name in ["r", "e"],
    do: {:answer, id}

  defp peek_id(name, 3, <<@integer, id::32, _rest::binary>>) when name in ["r", "e"],
    do: {:answer, id}

  defp peek_id("C", 6, <<@small_integer, id, _rest::binary>>), do: {:call, id}
  defp peek_id("C", 6, <<@integer, id::32, _rest::binary>>), do: {:call, id}

  defp peek_id(name, 3, _rest) when name in ["r", "e"], do: :malformed

  defp peek_id(name, _arity, _rest) when name in ["M", "P", "C", "L", "R", "e"],
    do: {:message, name}

  defp peek_id(_name, _arity, _rest), do: :malformed

  # Rewrites {:e, id, {:python, class, message, traceback}} to have the class as a binary; returns other frames unchanged.
  defp class_as_binary(
         <<@version, @small_tuple, 3, @small_atom_utf8, 1, "r", _::binary>> = frame
       ),
       do: frame

  defp class_as_binary(<<@version, @small_tuple, 3, rest::binary>> = frame) do
    with {:ok, "e", after_name} <- atom_text(rest),
         {:ok, <<@small_tuple, 4, after_tuple::binary>>} <- after_id(after_name),
         {:ok, "python", after_python} <- atom_text(after_tuple),
         {:ok, class, after_class} <- atom_text(after_python) do
      head = binary_part(frame, 0, byte_size(frame) - byte_size(after_python))
      <<head::binary, @binary_tag, byte_size(class)::32, class::binary, after_class::binary>>
    else
      _no_exception -> frame
    end
  end

  defp class_as_binary(frame), do: frame

  defp after_id(<<@small_integer, _id, rest::binary>>), do: {:ok, rest}
  defp after_id(<<@integer, _id::32, rest::binary>>), do: {:ok, rest}
  defp after_id(_rest), do: :error

  # The four encodings of an atom.
  defp atom_text(<<tag, size::16, text::binary-size(size), rest::binary>>) when tag in [100, 118],
    do: {:ok, text, rest}

  defp atom_text(<<tag, size, text::binary-size(size), rest::binary>>) when tag in [115, 119],
    do: {:ok, text, rest}

  defp atom_text(_rest), do: :malformed
end
