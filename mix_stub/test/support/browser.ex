defmodule DSPex.Browser do
  @moduledoc """
  Opens pages in a headless Chromium, by its driver (W3C WebDriver over HTTP on loopback).
  """

  alias DSPex.Python.JSON

  @enforce_keys [:session]
  defstruct [:session]

  # Of the key `element` in answers, as the standard has it.
  @element "element-6066-11e4-a52e-4f735466cecf"

  @doc """
  Returns why the tests that need a browser are skipped; `false`: they are not.
  """
  def missing do
    if System.find_executable("chromedriver") && System.find_executable("chromium"),
      do: false,
      else: "needs chromium and chromedriver (setup/chromium installs them)"
  end

  @doc """
  Starts a browser, which ends with the test, or with the tests of the file.
  """
  def start! do
    {:ok, pid} = Agent.start(&open_driver/0, timeout: 60_000)
    %{url: url, os_pid: os_pid} = Agent.get(pid, & &1)

    arguments =
      ~w(--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --window-size=1400,900)

    options = %{"goog:chromeOptions" => %{"args" => arguments}, "browserName" => "chrome"}
    created = post!(url <> "/session", %{"capabilities" => %{"alwaysMatch" => options}})
    session = "#{url}/session/#{created["sessionId"]}"

    ExUnit.Callbacks.on_exit(fn ->
      :httpc.request(:delete, {to_charlist(session), []}, [timeout: 10_000], [])
      Agent.stop(pid)
      DSPex.TestPython.signal_process(os_pid, "TERM")
    end)

    %__MODULE__{session: session}
  end

  defp open_driver do
    driver = System.find_executable("chromedriver")
    port = Port.open({:spawn_executable, driver}, [:binary, {:line, 1_000}, args: ["--port=0"]])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    %{url: "http://127.0.0.1:#{listening(port)}", port: port, os_pid: os_pid}
  end

  defp listening(port) do
    receive do
      {^port, {:data, {_end_of_line, line}}} ->
        case Regex.run(~r/started successfully on port (\d+)/, line) do
          [_all, number] -> number
          nil -> listening(port)
        end
    after
      30_000 -> raise "chromedriver has not said its port within 30 s"
    end
  end

  @doc """
  Opens a file.
  """
  def open(browser, path) do
    post!(browser.session <> "/url", %{"url" => "file://" <> Path.expand(path)})
    :ok
  end

  @doc """
  Runs a script in the page, and returns what it returns.
  """
  def run(browser, script, arguments \\ []),
    do: post!(browser.session <> "/execute/sync", %{"script" => script, "args" => arguments})

  @doc """
  Presses keys one after the other, each a character or the name of a key.
  """
  def press(browser, keys) do
    actions =
      for key <- List.wrap(keys),
          type <- ["keyDown", "keyUp"],
          do: %{"type" => type, "value" => key(key)}

    source = %{"type" => "key", "id" => "keyboard", "actions" => actions}
    post!(browser.session <> "/actions", %{"actions" => [source]})
    :ok
  end

  # The code points of keys without a character, in the standard's private area.
  @keys %{enter: 0xE007, escape: 0xE00C, end: 0xE010, home: 0xE011, left: 0xE012}
        |> Map.merge(%{up: 0xE013, right: 0xE014, down: 0xE015})

  defp key(name) when is_atom(name), do: <<@keys[name]::utf8>>
  defp key(character), do: character

  @doc """
  Clicks on the first element that a CSS selector finds.
  """
  def click(browser, selector) do
    %{@element => id} =
      post!(browser.session <> "/element", %{"using" => "css selector", "value" => selector})

    post!("#{browser.session}/element/#{id}/click", %{})
    :ok
  end

  @doc """
  Writes a picture of the page.
  """
  def picture(browser, path) do
    {:ok, {{_version, 200, _reason}, _headers, body}} =
      :httpc.request(:get, {to_charlist(browser.session <> "/screenshot"), []}, [timeout: 60_000],
        body_format: :binary
      )

    {:ok, %{"value" => picture}} = JSON.decode(body)
    File.write!(path, Base.decode64!(picture))
  end

  defp post!(url, body) do
    {:ok, text} = JSON.encode(body)
    request = {to_charlist(url), [], to_charlist("application/json"), text}

    {:ok, {{_version, status, _reason}, _headers, answer}} =
      :httpc.request(:post, request, [timeout: 60_000], body_format: :binary)

    {:ok, %{"value" => value}} = JSON.decode(answer)
    if status != 200, do: raise("the browser answers #{status}: #{value["message"]}")
    value
  end
end
