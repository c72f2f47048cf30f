defmodule Mix.Tasks.Dspex.Trace do
  @shortdoc "Makes an HTML page of the trace of a call"

  @moduledoc """
  Makes an HTML page of the trace of a call, a batch or an optimizer's run.

      mix dspex.trace trace.json
      mix dspex.trace trace.json --out page.html

  The file is what `DSPex.Trace.write_json/2` has written, or a JSON list of such traces, which become one page. The page is one
  file, which any browser shows without a network. Without `--out` it has the name of the file, with the ending `.html`.
  """

  use Mix.Task

  alias DSPex.Python.JSON
  alias DSPex.Trace

  @impl Mix.Task
  def run(arguments) do
    {options, files, wrong} = OptionParser.parse(arguments, strict: [out: :string])

    case {files, wrong} do
      {[file], []} -> convert(file, options[:out] || Path.rootname(file) <> ".html")
      {_files, [{name, _value} | _more]} -> Mix.raise("unknown option #{name}; #{usage()}")
      _no_file_or_several -> Mix.raise("expected the name of one file; #{usage()}")
    end
  end

  defp usage, do: "usage: mix dspex.trace FILE [--out FILE]"

  defp convert(file, out) do
    if Path.expand(file) == Path.expand(out),
      do: Mix.raise("#{out} would be overwritten; name another file with --out")

    with {:ok, text} <- File.read(file),
         {:ok, trace} <- JSON.decode(text),
         :ok <- Trace.write_html(trace, out) do
      Mix.shell().info("The page is #{out}")
    else
      {:error, {:unexpected, position}} ->
        Mix.raise("#{file} is no JSON: byte #{position} is unexpected")

      {:error, %File.Error{} = error} ->
        Mix.raise(Exception.message(error))

      {:error, reason} ->
        Mix.raise("cannot read #{file}: #{:file.format_error(reason)}")
    end
  rescue
    error in ArgumentError -> Mix.raise("#{file} has no trace: #{Exception.message(error)}")
  end
end
