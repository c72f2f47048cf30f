defmodule DSPex.Python.Functions.ModelOptionsTest do
  use ExUnit.Case, async: true

  import DSPex.TestPython

  alias DSPex.Python
  alias DSPex.Python.Error
  alias DSPex.Python.Functions.ModelOptions

  @doc false
  def model(_request), do: "yes"

  test "have the types of Python's options" do
    table = Path.expand("../../../../../docs/operations.md", __DIR__) |> File.read!()
    [_all, models] = String.split(table, "\n## Models\n")
    [_all, settings] = String.split(table, "\nSettings of a generation, which")
    settings = settings |> String.split("\n\n") |> Enum.at(1)
    types = %{"str" => :string, "int" => :integer, "float" => :number, "bool" => :boolean}
    types = Map.merge(types, %{"map" => :headers, "list[lm]" => :models})

    described =
      for line <- String.split(settings <> hd(String.split(models, "\n\nRequests beyond")), "\n"),
          [_all, name, type] <- [Regex.run(~r/^\| `(\w+)`.*?\| `([^`]+)` \|/, line)],
          into: %{},
          do: {name, Map.get(types, type, type)}

    # These two take more than the type says, and the third is another name for `api_base`.
    described = %{described | "api_key" => :key, "stop" => :strings}
    assert ModelOptions.types() == Map.put(described, "base_url", :string)
  end

  test "that are wrong are the error of start_pool/2, without the text in them" do
    # It was `{:ok, pid}`, a warning in the log, and an error of the first call.
    yes = fn _request -> "yes" end
    m = [model: "m"]

    for {model, message} <- [
          {{:elixir, function: 5},
           "expected a function of one argument or {module, function_name} at the option function of the model :elixir, got 5"},
          {{:elixir, %{"function" => fn -> 1 end}},
           "of one argument or {module, function_name} at"},
          {{:elixir, []}, "at the option function of the model :elixir, got nil"},
          {:elixir, "at the option function of the model :elixir, got nil"},
          {{:elixir, functon: yes}, ~S|unknown option "functon" of the model :elixir (did you|},
          {{:elixir, function: yes, timeout: -1}, "expected a time limit in ms or :infinity"},
          {{:elixir, function: yes, temprature: 1}, ~S|(did you mean "temperature"?)|},
          {{:elixir, function: yes, num_retries: "2"},
           "expected an integer at the option num_retries of the model :elixir, got a string"},
          {{:openai, modle: "m"},
           ~S|unknown option "modle" of the model :openai (did you mean "model"?)|},
          {{"openai/m", %{"temprature" => 1}},
           ~S|unknown option "temprature" of the model "openai/m" (did you mean "temperature"?)|},
          {{:openai, []},
           ~S|expected the name of a model of the provider "openai", such as "openai/MODEL" or {:openai, model: "MODEL"}|},
          {:openai, "expected the name of a model of the provider"},
          {"openai/", "expected the name of a model of the provider"},
          {{:openai, model: nil}, "expected the name of a model of the provider"},
          {{:mistral, temperature: 1}, ~S|a model of the provider "mistral", such as|},
          {{:ollama, model: 5},
           "expected a string at the option model of the model :ollama, got 5"},
          {{:openai, model: ""},
           ~S|expected a string at the option model of the model :openai, got ""|},
          {{:openai, model: true}, "at the option model of the model :openai, got true"},
          {{:openai, [temperature: "sk-1"] ++ m},
           "expected a number at the option temperature of the model :openai, got a string"},
          {{:openai, [cache: 1] ++ m}, "expected true or false at the option cache"},
          {{:openai, [max_tokens: 1.5] ++ m}, "expected an integer at the option max_tokens"},
          {{:openai, [stop: ["a", 5]] ++ m},
           "expected a string or a list of strings at the option stop of the model :openai, got a list"},
          {{:openai, [headers: ["a" | "b"]] ++ m},
           "expected a map or a keyword list at the option"},
          {{:openai, [api_key: 5] ++ m},
           "expected a string, {:system, variable}, a function without arguments or {module, function, args} at the option api_key of the model :openai, got 5"},
          {{:openai, [api_key: yes] ++ m},
           "at the option api_key of the model :openai, got a function"},
          {{:openai, [api_key: {String, :upcase, ["sk-1" | "sk-1"]}] ++ m},
           "{module, function, args} at the option api_key of the model :openai, got a tuple of 3"},
          # Each call was an error of kind `auth` or `provider`.
          {{:openai, [api_key: {Nope, :key, ["sk-1"]}] ++ m},
           "this node has no module Nope at the option api_key of the model :openai"},
          {{:openai, [api_key: {String, :upcas, ["sk-1"]}] ++ m},
           "there is no public function String.upcas/1 (did you mean :upcase?) at the option api_key of the model :openai"},
          {{:openai, [api_key: {String, :upcase, []}] ++ m},
           "there is no public function String.upcase/0 (there is upcase/1, upcase/2) at the option api_key"},
          {{:elixir, {Nope, :answer}},
           "this node has no module Nope at the option function of the model :elixir"},
          {{:elixir, {nil, nil}}, "this node has no module nil at the option function"},
          {{:elixir, function: {__MODULE__, :missing}},
           "there is no public function #{inspect(__MODULE__)}.missing/1 at the option function of the model :elixir"},
          {{:elixir, function: yes, fallbacks: [{:elixir, {__MODULE__, :missing}}]},
           "there is no public function #{inspect(__MODULE__)}.missing/1"},
          {{:openai, [api_base: {"sk-1", 1, 2}] ++ m}, "got a tuple of 3"},
          {{:openai, %{1 => 2, model: "m"}},
           "expected an atom or a string as the name of an option of the model :openai, got 1"},
          {{:openai_compatible, m},
           ~S|provider "openai_compatible" needs the address of its server, such as api_base: "http|},
          {{:openai, [fallbacks: 5] ++ m}, "expected a list of models at the option fallbacks"},
          {{:openai, [fallbacks: [:embedded, {:groq, modle: "m"}]] ++ m},
           ~S|unknown option "modle" of the model :groq (did you mean "model"?)|},
          {{:openai, [fallbacks: [%{provider: "groq"}]] ++ m},
           ~S|a model of the provider "groq"|},
          {{:openai, [fallbacks: [[provider: :groq, model: 5]]] ++ m},
           "of the model :groq, got 5"},
          {{:embedded, temperature: "hot"}, "expected a number at the option temperature"},
          {{:embedded, temprature: 1}, ~S|(did you mean "temperature"?)|}
        ] do
      assert {:error, %Error{kind: :input} = error} =
               Python.start_pool(:wrong_options, python: interpreter(), model: model)

      assert error.message =~ message
      assert error.message =~ ~r/ \(the option :model of pool :wrong_options\)$/
      refute error.message =~ "sk-1"
      # Nothing that Python would take is refused.
      assert refused?(model), inspect(model)
    end
  end

  # The path of a fallback model's function was "function", and most errors had none.
  test "have a path, and an error of a fallback model says of which one" do
    m = [model: "m"]
    missing = {__MODULE__, :missing}

    for {options, path} <- [
          {[temperature: "hot"], "temperature"},
          {[modle: "m"], "modle"},
          {[api_key: {Nope, :key, []}], "api_key"},
          {[fallbacks: 5], "fallbacks"},
          {[fallbacks: [{:elixir, missing}]], "fallbacks[0].function"},
          {[fallbacks: [:embedded, [provider: :elixir, function: missing]]],
           "fallbacks[1].function"},
          {[fallbacks: [{:elixir, functon: missing}]], "fallbacks[0].functon"},
          {[fallbacks: [{:groq, m ++ [api_key: {Nope, :key, []}]}]], "fallbacks[0].api_key"},
          {[fallbacks: [{:groq, m ++ [temperature: "hot"]}]], "fallbacks[0].temperature"},
          {[fallbacks: [:groq]], "fallbacks[0].model"},
          {[fallbacks: [{:groq, []}]], "fallbacks[0].model"},
          {[fallbacks: [{:openai_compatible, m}]], "fallbacks[0].api_base"},
          {[fallbacks: [{:groq, m ++ m}]], "fallbacks[0]"},
          {[fallbacks: [[provider: :groq, model: "m", model: "n"]]], "fallbacks[0]"},
          {[fallbacks: [:embedded, :grok]], "fallbacks[1]"}
        ] do
      model = {:openai, m ++ options}

      assert {:error, %Error{} = error} =
               Python.start_pool(:wrong_path, python: interpreter(), model: model)

      assert {error.path, error.details["path"]} == {"model.#{path}", "model.#{path}"}
      assert error.message =~ ~r/ \(the option :model of pool :wrong_path\)$/

      case Regex.run(~r/^fallbacks\[\d\]/, path) do
        [place] -> assert error.message =~ ", at #{place} (the option"
        nil -> refute error.message =~ "fallbacks["
      end
    end
  end

  # The lm of a call is checked by Python, and by what reads it for Python.
  defp refused?(model),
    do:
      match?({:error, %Error{}}, Python.execute_module("dspy.Predict", "q -> a", "x", lm: model))

  test "that Python may know, that come later, or that are right pass" do
    key = {:system, "DSPEX_NOT_SET"}

    for model <- [
          nil,
          :embedded,
          {:embedded, model: 5, foo: 1},
          "openai/gpt-4o",
          {"openai/gpt-4o", []},
          {"openai", %{"model" => "m", "api_key" => key}},
          {:openai, model: :"gpt-4o", api_key: fn -> "k" end, temperature: 1, stop: "x"},
          {:openai, model: ~c"gpt-4o", api_key: {String, :duplicate, ["k", 9]}, stop: ["x", :y]},
          {:openai, model: key, temperature: key, cache: key, max_tokens: key, num_retries: nil},
          {:openai, model: "m", headers: [a: "b"], fallbacks: nil},
          {:openai, model: "m", headers: %{"a" => "b"}, something_new: 1, max_hops: 3},
          {:mistral, model: "m", aws_region: "eu"},
          {:openai_compatible, model: "m", base_url: "http://127.0.0.1:9/v1"},
          {:elixir, fn _request -> "x" end},
          {:elixir, {__MODULE__, :model}},
          {:elixir, function: {__MODULE__, :model}, timeout: :infinity, temperature: 0.5},
          {:openai,
           model: "m",
           fallbacks: [%{provider: :groq, model: "m"}, [provider: :groq, model: "m"], "groq/m", 5]}
        ],
        do: assert({model, ModelOptions.check(model)} == {model, :ok})
  end
end
