defmodule DSPex.Python.Port.ProgramFiles do
  @moduledoc false

  # Reads the files of the option `:programs` of a pool: programs that each of its workers has under their names. The files are
  # checked with the other options, and read again for each Python that is started.

  alias DSPex.Python.{Error, JSON}
  alias DSPex.Python.Wire.Keywords

  # As much as Python loads.
  @max_bytes 64 * 1024 * 1024
  @remedy "write it with File.write!(path, json) from {:ok, json} = DSPex.Python.dump_program(program)"

  @typedoc """
  A path, or the name of an application and a path in its folder.
  """
  @type source :: Path.t() | {atom(), Path.t()}

  @doc """
  Checks the option: its form, and that each file is there and is a program; the error is a sentence without its place.
  """
  @spec check(term()) :: :ok | {:error, String.t()}
  def check(programs) do
    cond do
      not Keyword.keyword?(programs) ->
        {:error,
         "expected a keyword list of names and files, such as [triage: \"priv/triage.json\"], got #{inspect(programs)}"}

      message = Keywords.repeated(programs, "the programs") ->
        {:error, message}

      true ->
        Enum.find_value(programs, :ok, fn {name, source} ->
          with {:ok, _text} <- text(name, source), do: nil
        end)
    end
  end

  @doc """
  Returns the text of each program, by its name as Python has it.
  """
  @spec read([{atom(), source()}]) :: {:ok, %{String.t() => String.t()}} | {:error, Error.t()}
  def read(programs) do
    Enum.reduce_while(programs, {:ok, %{}}, fn {name, source}, {:ok, texts} ->
      case text(name, source) do
        {:ok, text} -> {:cont, {:ok, Map.put(texts, Atom.to_string(name), text)}}
        {:error, message} -> {:halt, {:error, Error.new(:store, message)}}
      end
    end)
  end

  @doc """
  Returns Python's error about a program with the name of its file and the remedy.
  """
  @spec explain(Error.t(), [{atom(), source()}]) :: Error.t()
  def explain(%Error{path: "programs." <> name} = error, programs) do
    case Enum.find(programs, fn {known, _source} -> Atom.to_string(known) == name end) do
      {_name, source} ->
        {:ok, path} = path(source)
        %{error | message: "#{error.message}; its file is #{inspect(path)}: #{@remedy}"}

      nil ->
        error
    end
  end

  def explain(error, _programs), do: error

  defp text(name, source) do
    with {:ok, path} <- path(source),
         {:ok, %{type: :regular, size: size}} when size <= @max_bytes <- File.stat(path),
         {:ok, text} <- File.read(path),
         {:ok, %{"format" => "dspex.program"}} <- JSON.decode(text) do
      {:ok, text}
    else
      {:invalid, problem} -> {:error, "program #{inspect(name)}: #{problem}"}
      problem -> {:error, wrong(name, source, problem)}
    end
  end

  defp path(path) when is_binary(path) and path != "", do: {:ok, Path.expand(path)}

  defp path({app, path}) when is_atom(app) and is_binary(path) and path != "" do
    {:ok, Application.app_dir(app, path)}
  rescue
    ArgumentError -> {:invalid, "there is no application #{inspect(app)}"}
  end

  defp path(other),
    do: {:invalid, "expected a path or {application, path}, got #{inspect(other)}"}

  defp wrong(name, source, problem) do
    {:ok, path} = path(source)
    "program #{inspect(name)}: the file #{inspect(path)} #{say(problem)}; #{@remedy}"
  end

  defp say({:error, {:unexpected, position}}), do: "is no JSON, at byte #{position}"
  defp say({:error, reason}), do: "cannot be read: #{:file.format_error(reason)}"
  defp say({:ok, %File.Stat{type: :regular}}), do: "is larger than #{@max_bytes} bytes"
  defp say({:ok, %File.Stat{type: type}}), do: "is a #{type}"
  defp say({:ok, _json}), do: "is no program that dump_program/2 has written"
end
