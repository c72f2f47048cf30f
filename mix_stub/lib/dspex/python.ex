defmodule DSPex.Python do
  @moduledoc """
  Calls DSPy's operations, one function each.

      iex> {:ok, prediction} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", %{question: "What is ETF?"})
      iex> is_binary(prediction[:answer])
      true

  Every function returns `{:ok, result}` or `{:error, %DSPex.Python.Error{}}`. It raises `ArgumentError` only for misuse: options
  that are neither a keyword list nor a map with atom keys, or a wrong value of an option that Elixir itself reads, which are those of
  every function below, `:buffer` and `:progress`. Any other wrong option is an error of the call. Each has a twin with `!`, which
  returns the result itself or raises the error:

      iex> DSPex.Python.execute_module!("dspy.Predict", "question -> answer", "What is ETF?").model
      "embedded/extractive"

  ## Options of every function

  A keyword list or a map with atom keys.

    * `:pool` - the name of the pool; `:general` by default. See `DSPex.Python.Pool`. `{:cluster, name}` stands for the pools of
      that name on all nodes, see `DSPex.Python.Cluster`
    * `:timeout` - in ms, 1 or more, or `:infinity`; 30,000 by default. It is one budget for the whole call: at its end Python
      stops the work, and the caller has its answer at most about 50 ms later
    * `:serialization_format` - `:native` (the default) or `:json`, which returns the same results more slowly
    * `:retry` - `:safe`: if the Python that works on the call dies, the call is made again, once, unless a tool or another function (also
      a model in Elixir) was called for it, a piece of a stream was sent, a program was stored, a version without a `:request_id`, or
      something was deleted; otherwise the error has the kind `:worker_died`. A turn of a conversation is stored once. The default is the
      pool's. A batch or evaluation whose results come one by one is not made again as a whole; those in all workers run the items that
      have no result yet
    * `:metadata` - a map of your own, such as `%{tenant: "acme"}`, which is in the events of the call and in its trace, unchanged; a pool may limit
      what each tenant spends (`:budgets`)
    * `:strict` - `true`: an option that means nothing to the call is an error; by default what the pool says

  The functions that execute something also take `:trace` (`true`, or `:metadata` for one without texts), `:traceparent` (the caller's span, as
  the header of W3C Trace Context), `:session_id`, `:request_id`, `:lm` (a model for this call, written as in
  `DSPex.Python.Pool`), `:max_cost` (US dollars) and `:max_tokens_total`, which limit what the call spends on models, `:demos`, `:tools` (see
  `DSPex.Python.Tool`), and settings of the model (`:temperature`,
  `:max_tokens`, …) and of the module (`:max_iters`, …). A misspelt option (`timout: 1`) is an error that says which was meant. Another
  option that neither takes does not fail the call unless it is `:strict`: it is named in `prediction.warnings`. A function that shows,
  changes or deletes something (programs, sessions, conversations, requests, budgets, metrics) refuses every option that it does not take,
  since that may be meant to say what is deleted, or whose things are shown.

  ## Values

  | Elixir | Python | back |
  | --- | --- | --- |
  | `nil`, `true`, `false` | `None`, `True`, `False` | the same |
  | other atom | `Atom`, a `str` | the same atom; from a field, also one of an enum (`{:enum, [:low, :high]}`), the text `"low"` |
  | binary, UTF-8 or not | `str` or `bytes` | the same binary |
  | integer, float, list, tuple, map | `int`, `float`, `list`, `tuple`, `dict` | the same |
  | `DSPex.Value`: images, audio, files | DSPy's own types | a map with `"$type"`, which may be an input again |
  | `Date`, `Time`, `NaiveDateTime`, `DateTime`, `Decimal`, `MapSet`, `Range` | Python's own types | the same struct |
  | other struct | the `dict` of its fields | a map |
  | pid, reference, port, fun, bitstring | an opaque object | the same |
  | | NaN, infinity, -infinity | `:nan`, `:infinity`, `:neg_infinity` |
  | | any other object | an error of kind `:encode` that names its path |

  ## Telemetry and traces

  `DSPex.Telemetry` lists the events of calls, of what happens in them, and of pools. With the option `trace: true` a call that executes something
  has the tree of its spans in its result; see `trace/1` and `DSPex.Trace`.
  """

  use DSPex.Python.Call.Bangs

  alias DSPex.{Prediction, Program, Trace}

  alias DSPex.Python.Call.{
    CallOptions,
    HistoryText,
    ModuleCalls,
    Operation,
    Overview,
    ProgramCalls,
    SessionCalls,
    Top
  }

  alias DSPex.Python.{Cluster, Error, ModuleSpec}
  alias DSPex.Python.Functions.{Budgets, Model}
  alias DSPex.Python.Pool.{Membership, PoolSupervisor, RollingRestart, Settings}
  alias DSPex.Python.Wire.Keywords

  @type options :: keyword() | %{optional(atom()) => term()}
  @type signature :: String.t() | map()
  @typedoc "A program, its id, or as an atom the name that the pool's option `:programs` gives it."
  @type program :: Program.t() | String.t() | atom()
  @type inputs :: map() | keyword() | String.t()
  @type result(value) :: {:ok, value} | {:error, Error.t()}

  @batch_chunk 1_000

  @doc """
  Starts a pool under the supervision of `:dspex`. `name` is what calls name in their option `:pool`; `options` are described in
  `DSPex.Python.Pool`; an unknown option raises, and so does a value of a wrong form, as a model function of no arguments.

  Does not wait for Python: calls do, and have the error of a Python that cannot be started; so has `await_pools/2`. Returns
  `{:error, {:already_started, pid}}` if there is a pool of that name, `{:error, :not_started}` if the application `:dspex` has not been
  started, and `{:error, %DSPex.Python.Error{}}` if `:python` names no executable file, `:model` no provider, or if what can be told of the options of
  the model without Python is wrong: a misspelt name, a type, no `model:`. A pool of the configuration starts with such a model, since calls
  may bring their own.

      {:ok, _pid} = DSPex.Python.start_pool(:reports, python: ".venv/bin/python", model: :embedded)
  """
  @spec start_pool(atom(), keyword()) :: {:ok, pid()} | {:error, term()}
  defdelegate start_pool(name, options), to: PoolSupervisor

  @doc """
  Stops the pool `name`, of the configuration or of `start_pool/2`. Its calls in flight end within the pool's `:stop_timeout`, and are
  answered with an error after that; further calls are refused meanwhile. Returns when the pool has stopped.

      iex> {:error, error} = DSPex.Python.stop_pool(:no_such_pool)
      iex> error.kind
      :pool_not_found
  """
  @spec stop_pool(atom()) :: :ok | {:error, Error.t()}
  defdelegate stop_pool(name), to: PoolSupervisor

  @doc """
  Replaces the Pythons of the pool `name` by new ones, one after the other and without a gap: for a new version of your Python code, or of a package.

  Returns `:ok` when calls go to the new Python. It is started first, and the old one takes calls until it is ready. Calls and
  streams that are in flight end in the old one, within the pool's `:drain_timeout`. The new Python has the pool's options, and the
  model that was configured last, whose `{:system, variable}` are read again; sessions and programs are in the `:store` of the
  pool.

  If the new Python cannot be started, its error is returned, and the old one stays. A pool that is being stopped, also one whose stop begins
  meanwhile, is an error of kind `:pool_not_found`.

      iex> {:error, error} = DSPex.Python.restart_pool(:no_such_pool)
      iex> error.kind
      :pool_not_found
  """
  @spec restart_pool(atom()) :: :ok | {:error, Error.t()}
  defdelegate restart_pool(name), to: RollingRestart, as: :restart

  @doc """
  Waits until all workers of these pools are ready, by default those of all pools: for releases and tests. Calls need no such
  wait, since they wait themselves.

  Returns the error of the first pool whose Python cannot be started, or is not ready within `timeout` ms.

      iex> DSPex.Python.await_pools([:general])
      :ok
  """
  @spec await_pools([Cluster.pool()] | :all, timeout()) :: :ok | {:error, Error.t()}
  defdelegate await_pools(pools \\ :all, timeout \\ 60_000), to: Cluster, as: :await_all

  @doc """
  Takes the pool `name` of this node out of its cluster, before it is stopped: calls of other nodes go elsewhere from now on.

  Waits until its calls have ended, at most `timeout` ms, and returns how many are still in flight. The pool still takes calls of
  this node that name it. It is out until it is stopped and started again.

      iex> {:error, error} = DSPex.Python.drain_pool(:no_such_pool)
      iex> error.kind
      :pool_not_found
  """
  @spec drain_pool(atom(), timeout()) :: {:ok, non_neg_integer()} | {:error, Error.t()}
  defdelegate drain_pool(name, timeout \\ 30_000), to: Membership, as: :drain

  @doc """
  Checks that the pool's Python answers; returns its versions and state, with `payload` among them.

      iex> {:ok, pong} = DSPex.Python.ping({:any, ["term"]})
      iex> pong["payload"]
      {:any, ["term"]}

  The options come second: `ping(nil, pool: :reports)`. Options alone, `ping(pool: :reports)`, raise `ArgumentError`; they would be
  the payload of a call to the default pool.
  """
  @spec ping(term(), options()) :: result(map())
  def ping(payload \\ nil, options \\ []) do
    if options == [], do: CallOptions.refuse_payload!(payload)
    call(:ping, [payload], options)
  end

  @doc """
  Sets the language model of the pool, or of one session with the option `:session_id`; returns its description.

  `provider` is an atom or text, such as `:openai`, `:embedded` or `:elixir`, or the whole model as a pool's option `:model` is written,
  with `config` left out. `config` takes the provider's options: `:model`, `:api_key`, `:api_base`, `:temperature`, `:fallbacks`, `:cache`,
  `:requests_per_minute`, …; a value `{:system, variable}` is read from the environment of the BEAM. An `:api_key` that is a function
  without arguments, or `{module, function, args}`, is called before each request, so that keys can rotate.
  `configure_lm(:elixir, function: function)` sets a model function, see `DSPex.Python.ModelFunction`. A Python that is started again
  has the model of the pool that was set last; the model of a session is lost with its session, and one that is a function of Elixir also
  with the worker that has the session, also if a `:store` keeps that: configure it again. Calls in flight go on with the model that they began
  with; of a batch or an evaluation each part that begins is a call (see `execute_batch/4`). After an error of kind `timeout` a pool has
  the model that it had, and a session one of the two.

      iex> {:ok, _model} = DSPex.Python.configure_lm(:embedded)
  """
  @spec configure_lm(Model.provider(), keyword() | map(), options()) :: result(map())
  def configure_lm(provider, config \\ %{}, options \\ []) do
    if options == [], do: CallOptions.refuse_config!(config)
    SessionCalls.configure_model(provider, config, CallOptions.new!(options))
  end

  @doc """
  Returns the trace of a result of any function that executes something with the option `trace: true`: of `{:ok, value}` and `{:error, error}`,
  of the value or error itself, of an element of a stream, and of the results of a batch together. `nil` without a trace.

      iex> result = DSPex.Python.execute_batch("dspy.Predict", "question -> answer", ["What is ETF?", "Why?"], trace: true)
      iex> trace = DSPex.Python.trace(result)
      iex> Enum.count(trace.spans, & &1["kind"] == "item")
      2
  """
  @spec trace(term()) :: Trace.t() | nil
  def trace(%Trace{} = trace), do: trace
  def trace(%struct{trace: trace}) when struct in [Prediction, Program, Error], do: trace
  def trace({status, value}) when status in [:ok, :error, :prediction, :program], do: trace(value)
  def trace({index, result}) when is_integer(index), do: trace(result)
  def trace(%{trace: %Trace{} = trace}), do: trace
  # Of an evaluation.
  def trace(%{prediction: %Prediction{trace: trace}, score: _score}), do: trace

  def trace(results) when is_list(results) do
    if not List.improper?(results),
      do: results |> Enum.map(&trace/1) |> Enum.filter(& &1) |> Trace.join()
  end

  def trace(_other), do: nil

  @doc """
  Lists the names of the DSPy modules that can be executed.

      iex> {:ok, names} = DSPex.Python.list_modules()
      iex> "dspy.ReAct" in names
      true
  """
  @spec list_modules(options()) :: result([String.t()])
  def list_modules(options \\ []), do: call(:list_modules, [], options)

  @doc """
  Describes the DSPy module `name`: its purpose, its options with types and defaults, the outputs that it adds.

      iex> {:ok, module} = DSPex.Python.describe_module("dspy.ReAct")
      iex> {module["adds"], module["options"]["max_iters"]["default"]}
      {["reasoning", "trajectory"], 20}
  """
  @spec describe_module(String.t(), options()) :: result(map())
  def describe_module(name, options \\ []), do: call(:describe_module, [name], options)

  @doc """
  Checks a module, a signature and options as `execute_module/4` would, without asking a model.

  Returns the signature as Python understood it, and warnings of options that neither model nor module takes.

      iex> {:ok, checked} = DSPex.Python.validate_module("dspy.Predict", "question -> score: float", max_hops: 3)
      iex> {checked["signature"], length(checked["warnings"])}
      {"question: str -> score: float", 1}
  """
  @spec validate_module(ModuleSpec.t(), signature() | nil, options()) :: result(map())
  def validate_module(name, signature, options \\ []),
    do: ModuleCalls.validate(name, signature, CallOptions.new!(options))

  @doc """
  Executes a DSPy module: one by its name, or modules that run one another, see `DSPex.Python.ModuleSpec`.

  `signature` is text such as `"context, question -> answer: str, score: float"`, or a map with `:inputs`, `:outputs`
  and `:instructions`. `inputs` is a map (or keyword list) of the input fields, or text for the first of them.

      iex> {:ok, prediction} = DSPex.Python.execute_module("dspy.ChainOfThought", "context, question -> answer",
      ...>   %{context: "Lisbon is the capital of Portugal.", question: "What is the capital of Portugal?"})
      iex> prediction[:answer] =~ "Lisbon"
      true

      iex> module = %{module: "dspy.BestOfN", N: 2, of: "dspy.Predict",
      ...>   reward: fn %{"question" => _}, prediction -> String.length(prediction[:answer]) end}
      iex> {:ok, best} = DSPex.Python.execute_module(module, "question -> answer", "What is ETF?")
      iex> is_binary(best[:answer])
      true

      iex> {:error, error} = DSPex.Python.execute_module("dspy.Predcit", "question -> answer", "Why?")
      iex> {error.kind, error.message =~ "dspy.Predict"}
      {:module_not_found, true}
  """
  @spec execute_module(ModuleSpec.t(), signature() | nil, inputs(), options()) ::
          result(Prediction.t())
  def execute_module(module, signature, inputs, options \\ []),
    do: ModuleCalls.execute(module, signature, inputs, CallOptions.new!(options))

  @doc """
  Executes a DSPy module as `execute_module/4` does, and returns a stream of its answer while the model writes it.

  The stream emits

    * `{:chunk, field, text}` - the next piece of a text field; all pieces of a field together are its text
    * `{:status, map}` - what begins: `"stage"` is `"module"`, `"model"` or `"tool"`, and `"name"` its name
    * `{:prediction, prediction}` or `{:error, error}` - the last element

  The stream is lazy: the call begins when the first element is requested, and each enumeration makes a new call. When the
  stream is halted, or its process ends, the call is cancelled and its request to the model is closed. A slow reader causes
  back-pressure: at most `:buffer` elements (64 by default) are unread, then the model's answer is not read any further;
  the `:timeout` continues.

  A field comes as one piece from a model that does not stream (`:embedded`), with an `:adapter` other than `"chat"`, and
  from modules that run code. A field that is not text is in the prediction only. Once the model has begun to write, an
  answer that cannot be parsed is an error: DSPy does not ask again.

      iex> stream = DSPex.Python.stream("dspy.Predict", "context, question -> answer",
      ...>   %{context: "Lisbon is the capital of Portugal.", question: "What is the capital of Portugal?"})
      iex> Enum.any?(stream, &match?({:chunk, "answer", _text}, &1))
      true
  """
  @spec stream(ModuleSpec.t(), signature() | nil, inputs(), options()) :: Enumerable.t()
  def stream(module, signature, inputs, options \\ []),
    do: ModuleCalls.stream(module, signature, inputs, CallOptions.new!(options))

  @doc """
  Executes a program as `execute_program/3` does, and returns a stream of its answer as `stream/4` does.

  If several stages have the same field, its pieces are those of the last stage.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:prediction, prediction} = program |> DSPex.Python.stream_program("What is ETF?") |> Enum.at(-1)
      iex> is_binary(prediction[:answer])
      true
  """
  @spec stream_program(program(), inputs(), options()) :: Enumerable.t()
  def stream_program(program, inputs, options \\ []),
    do: ProgramCalls.stream(program, inputs, CallOptions.new!(options))

  @doc """
  Executes a DSPy module once for each element of `inputs_list`, concurrently, within one timeout.

  The results are in the order of the inputs; each is `{:ok, prediction}` or `{:error, error}`.

  Options in addition to those of `execute_module/4`:

    * `:max_concurrency` - how many run at the same time; for each worker of the pool 16 by default, 256 at most
    * `:item_timeout` - the longest time of each item in ms, within the `:timeout` of the whole batch
    * `:on_error` - `:collect` (the default), or `:fail_fast`: the first error ends the others, whose errors have the kind
      `:cancelled`

  For example:

      iex> {:ok, [{:ok, first}, {:error, second}]} =
      ...>   DSPex.Python.execute_batch("dspy.Predict", "question -> answer", ["What is ETF?", %{query: "What?"}])
      iex> {is_binary(first[:answer]), second.kind}
      {true, :input}
  """
  @spec execute_batch(ModuleSpec.t(), signature() | nil, [inputs()], options()) ::
          result([result(Prediction.t())])
  def execute_batch(module, signature, inputs_list, options \\ []),
    do: ModuleCalls.execute_batch(module, signature, inputs_list, CallOptions.new!(options))

  @doc """
  Executes a program once for each element of `inputs_list`, as `execute_batch/4` does with a module.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, results} = DSPex.Python.execute_program_batch(program, ["What is ETF?", "What is a port?"], max_concurrency: 2)
      iex> Enum.all?(results, &match?({:ok, _prediction}, &1))
      true
  """
  @spec execute_program_batch(program(), [inputs()], options()) ::
          result([result(Prediction.t())])
  def execute_program_batch(program, inputs_list, options \\ []),
    do: ProgramCalls.execute_batch(program, inputs_list, CallOptions.new!(options))

  @doc """
  Executes a program for each of `examples` and scores its predictions.

  An example is a map (or keyword list) with the program's inputs, and the values that the metric compares with. `metric` is

    * a function of the example, with strings as keys, and the `DSPex.Prediction`, which returns a number from 0 to 1, a
      boolean, or `%{score: number, feedback: text}`
    * a check as in `DSPex.Python.ModuleSpec`, whose `:input` names a value of the example:
      `%{check: :equals, field: :answer, input: :expected}`
    * `"exact_match"`, `"f1"`, `"contains"`, `"equals"` or `"semantic_f1"`, which compare the program's first output with the
      example's field of that name; for `"semantic_f1"` the model of the call is the judge

  Returns a map with `:score` (0 to 100), `:count`, `:failed`, `:total_tokens` (those of failed examples too), `:metric_tokens`
  (those of the metric's own requests), `:duration_ms`, `:warnings` (sentences about ignored options, about scores that are not from 0 to 1, and one that names the first
  error if examples failed), and `:results` in the order of the examples: `{:ok, %{prediction: prediction, score: score, feedback: text | nil}}`, or `{:error, error}` if the call or the
  metric failed. A failed example counts as `:failure_score`, 0.0 by default. `progress: true` draws a progress line on
  standard error; `progress: function` calls a function with each element of `stream_evaluate/4`. Other options are those of
  `execute_batch/4`.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "text, question -> answer", modules: ["dspy.Predict"])
      iex> text = "Lisbon is the capital of Portugal. Paris is the capital of France."
      iex> examples = [
      ...>   %{text: text, question: "What is the capital of Portugal?", expected: "Lisbon"},
      ...>   %{text: text, question: "What is the capital of France?", expected: "Rome"}
      ...> ]
      iex> metric = fn %{"expected" => expected}, prediction -> prediction[:answer] =~ expected end
      iex> {:ok, evaluation} = DSPex.Python.evaluate_program(program, examples, metric)
      iex> {evaluation.score, evaluation.count, evaluation.failed}
      {50.0, 2, 0}
  """
  @spec evaluate_program(program(), [inputs()], metric, options()) :: result(map())
        when metric: (map(), Prediction.t() -> number() | boolean() | map()) | map() | String.t()
  def evaluate_program(program, examples, metric, options \\ []),
    do: ProgramCalls.evaluate(program, examples, metric, CallOptions.new!(options))

  @doc """
  Evaluates a program as `evaluate_program/4` does, and returns a stream of the scores as they come.

  The stream is lazy, as in `stream/4`. Its elements are
  `{index, {:ok, %{prediction: …, score: …, feedback: …}} | {:error, error}}`, the index counted from 0, and at last
  `{:ok, evaluation}` as from `evaluate_program/4`, or `{:error, error}`.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> stream = DSPex.Python.stream_evaluate(program, [[question: "What?", answer: "ETF"]], "exact_match")
      iex> [{0, {:ok, scored}}, {:ok, evaluation}] = Enum.to_list(stream)
      iex> {scored.score == 0, evaluation.count}
      {true, 1}
  """
  @spec stream_evaluate(program(), [inputs()], term(), options()) :: Enumerable.t()
  def stream_evaluate(program, examples, metric, options \\ []),
    do: ProgramCalls.stream_evaluate(program, examples, metric, CallOptions.new!(options))

  @doc """
  Improves a program by examples, with one of DSPy's optimizers; returns a new version. The old version stays.

  `trainset` is a list of examples: maps with the program's inputs, and the values that the metric compares with or that demos
  should show (the program's own outputs). The options in addition to those of `execute_program/3`:

    * `:optimizer` - required; `list_optimizers/1` names them, and `describe_optimizer/2` lists the options of each, which
      are options of this function too
    * `:metric` - as in `evaluate_program/4`. For `dspy.GEPA` a function may also return `%{score: 0.5, feedback: "too long"}`;
      the model that writes instructions reads the feedback. A function
      may take three to five arguments: also the trace, the name of the predictor that feedback is for, and its trace
    * `:valset` - examples to choose the best candidate by; by default examples of the trainset
    * `:num_threads` - how many examples run at the same time; 8 by default, 64 at most
    * `:max_errors` - the number of failed calls or metrics after which the last error is returned; 10 by default
    * `:progress` - `true` draws a progress line on standard error; a function of one argument is called with each element of
      `stream_compile/3`

  `:timeout` is `:infinity` here by default. The end of the caller, `cancel/2` and the timeout end all that runs. Nothing is
  printed. A pool compiles at most four programs at a time.

  With a `:request_id` (and a `:store` of the pool, as by default) the same call may be made again after its Python has ended: it goes on from
  what models had answered, and pays for nothing twice.

      iex> text = "Lisbon is the capital of Portugal. Paris is the capital of France."
      iex> {:ok, program} = DSPex.Python.create_program(signature: "text, question -> answer", modules: ["dspy.Predict"])
      iex> trainset = for {country, capital} <- [{"Portugal", "Lisbon"}, {"France", "Paris"}],
      ...>   do: %{text: text, question: "What is the capital of \#{country}?", answer: capital}
      iex> {:ok, better} = DSPex.Python.compile_program(program, trainset,
      ...>   optimizer: "dspy.BootstrapFewShot", metric: %{check: :contains, field: :answer, input: :answer})
      iex> {program.version, better.version, better.compiled.metric_calls}
      {1, 2, 2}
  """
  @spec compile_program(program(), [map()], options()) :: result(Program.t())
  def compile_program(program, trainset, options \\ []),
    do: ProgramCalls.compile(program, trainset, CallOptions.new!(options, :infinity))

  @doc """
  Improves a program as `compile_program/3` does, and returns a stream of the scores as they come.

  The stream is lazy, as in `stream/4`; its elements:

    * `{:scored, %{score: score, metric_calls: count, failures: count, best_score: score | nil}}` - one answer was scored
    * `{:candidate, %{number: number, score: score, best_score: score}}` - one candidate was scored with all its examples
    * `{:program, program}` or `{:error, error}` - the last element

  For example:

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> stream = DSPex.Python.stream_compile(program, [[question: "What?", answer: "ETF"]], optimizer: "dspy.LabeledFewShot")
      iex> {:program, compiled} = Enum.at(stream, -1)
      iex> compiled.compiled.demos |> Map.values() |> Enum.sum()
      1
  """
  @spec stream_compile(program(), [map()], options()) :: Enumerable.t()
  def stream_compile(program, trainset, options \\ []),
    do: ProgramCalls.stream_compile(program, trainset, CallOptions.new!(options, :infinity))

  @doc """
  Lists the optimizers that can compile a program.

      iex> {:ok, names} = DSPex.Python.list_optimizers()
      iex> "dspy.GEPA" in names
      true
  """
  @spec list_optimizers(options()) :: result([String.t()])
  def list_optimizers(options \\ []), do: call(:list_optimizers, [], options)

  @doc """
  Describes the optimizer `name`: its purpose, its options with types and defaults, and whether its packages are installed.

      iex> {:ok, optimizer} = DSPex.Python.describe_optimizer("dspy.LabeledFewShot")
      iex> {optimizer["available"], optimizer["options"]["k"]["type"]}
      {true, "int"}
  """
  @spec describe_optimizer(String.t(), options()) :: result(map())
  def describe_optimizer(name, options \\ []), do: call(:describe_optimizer, [name], options)

  @doc """
  Returns a program as JSON text, with what it has learned. Keep the text in a file or a database; `load_program/2` loads it.

  The text holds neither models and keys nor its conversation and session.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer", modules: ["dspy.Predict"])
      iex> {:ok, json} = DSPex.Python.dump_program(program)
      iex> {:ok, again} = DSPex.Python.load_program(json)
      iex> {:ok, %DSPex.Prediction{}} = DSPex.Python.execute_program(again, "What is ETF?")
      iex> again.id == program.id
      false
  """
  @spec dump_program(program(), options()) :: result(String.t())
  def dump_program(program, options \\ []),
    do: ProgramCalls.dump(program, CallOptions.new!(options))

  @doc """
  Creates a program from the text of `dump_program/2`. Options are `:session_id`; `:lm`, its model; `:lms`, the
  models that stages, predictors and modules of the program have of their own, by the names of the stages (`%{reply: …}`), of the
  predictors (`%{"search.react" => …}`) or of the options (`%{sub_lm: …}`); and `:allow_urls`, whether images of its examples may be URLs.

  The text is checked like the spec of `create_program/2`: it runs no code, and names no model, no URL and no key. A mistake in
  it is an error of kind `:store`, or of a kind that `create_program/2` returns.

      iex> {:error, error} = DSPex.Python.load_program("no program")
      iex> error.kind
      :store
  """
  @spec load_program(String.t(), options()) :: result(Program.t())
  def load_program(text, options \\ []), do: ProgramCalls.load(text, CallOptions.new!(options))

  @doc """
  Executes a DSPy module once for each of `inputs`, and returns a stream of the results as they come.

  The stream emits `{index, {:ok, prediction} | {:error, error}}`, the index counted from 0 in the order of the inputs, and
  at last `{:error, error}` if the batch as a whole has failed. `inputs` may be any enumerable. #{@batch_chunk} inputs are
  taken at a time, within one `:timeout`, with back-pressure as in `stream/4` (`:buffer`). Halting the stream cancels the
  remaining items. Options as those of `execute_batch/4`.

      iex> text = "Lisbon is the capital of Portugal. Paris is the capital of France."
      iex> inputs = Stream.map(["Portugal", "France"], &%{text: text, question: "What is the capital of \#{&1}?"})
      iex> results = "dspy.Predict" |> DSPex.Python.stream_batch("text, question -> answer", inputs) |> Enum.sort()
      iex> for {index, {:ok, prediction}} <- results, do: {index, prediction[:answer] =~ ~r/Lisbon|Paris/}
      [{0, true}, {1, true}]
  """
  @spec stream_batch(ModuleSpec.t(), signature() | nil, Enumerable.t(), options()) ::
          Enumerable.t()
  def stream_batch(module, signature, inputs, options \\ []),
    do:
      ModuleCalls.stream_batch(module, signature, inputs, @batch_chunk, CallOptions.new!(options))

  @doc """
  Executes a program once for each of `inputs`, and returns a stream of the results as they come, as `stream_batch/4` does
  with a module.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> results = program |> DSPex.Python.stream_program_batch(["What is ETF?", "What is a port?"]) |> Enum.sort()
      iex> for {index, {:ok, prediction}} <- results, do: {index, is_binary(prediction[:answer])}
      [{0, true}, {1, true}]
  """
  @spec stream_program_batch(Program.t() | String.t(), Enumerable.t(), options()) ::
          Enumerable.t()
  def stream_program_batch(program, inputs, options \\ []),
    do: ProgramCalls.stream_batch(program, inputs, @batch_chunk, CallOptions.new!(options))

  @doc """
  Creates a program in the session of the option `:session_id`, or in a new session.

  `spec` is a map (or keyword list) with `:signature` and `:modules`, a list of modules (names, or maps as in
  `DSPex.Python.ModuleSpec`). They are executed one after the other; each stage takes the inputs and the outputs of earlier
  stages. The map of a module may also have a `:name`, and `:inputs` that name other stages:
  `inputs: %{context: "search.passages"}`. A stage with a name may have a model of its own, `:lm`, and in `:lms` models of single
  predictors: `lms: %{"react" => model}`. `:outputs` of the spec chooses the outputs of the program. With `history: true` the
  program keeps conversations, see `list_conversations/2`.

      iex> {:ok, program} = DSPex.Python.create_program(%{
      ...>   modules: [
      ...>     %{name: "find", module: "dspy.Predict", signature: "text, question -> fact"},
      ...>     %{module: "dspy.ChainOfThought", signature: "context, question -> answer", inputs: %{context: "find.fact"}}
      ...>   ],
      ...>   outputs: ["answer"]
      ...> })
      iex> {:ok, prediction} = DSPex.Python.execute_program(program,
      ...>   %{text: "Lisbon is the capital of Portugal.", question: "What is the capital of Portugal?"})
      iex> DSPex.Prediction.to_map(prediction)
      %{"answer" => "Lisbon is the capital of Portugal."}
  """
  @spec create_program(map() | keyword(), options()) :: result(Program.t())
  def create_program(spec, options \\ []),
    do: ProgramCalls.create(spec, CallOptions.new!(options))

  @doc """
  Executes a program, which is a `%DSPex.Program{}` or its id.

  A `%DSPex.Program{}` is executed in its own version, an id in the newest version; the option `:version` chooses another.
  A `%DSPex.Program{}` also knows its pool: the option `:pool` is for ids, and an error if it names another one.

  A version of `dspy.KNNFewShot` takes `:embedder` (a function of a list of texts that returns one embedding per text), or
  `:vector`, the embedding of the inputs.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, prediction} = DSPex.Python.execute_program(program, %{question: "What is ETF?"}, timeout: 5_000)
      iex> is_binary(prediction[:answer])
      true
  """
  @spec execute_program(program(), inputs(), options()) :: result(Prediction.t())
  def execute_program(program, inputs, options \\ []),
    do: ProgramCalls.execute(program, inputs, CallOptions.new!(options))

  @doc """
  Lists the descriptions of the programs of a session, or of all sessions for `nil`, which may be left out before options:
  `list_programs(pool: :reports)`. Of all sessions, a worker that does not answer within `:timeout` is an error of kind `:timeout` that names it.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, [description]} = DSPex.Python.list_programs(program.session_id)
      iex> description["id"] == program.id
      true
  """
  @spec list_programs(String.t() | nil | options(), options()) :: result([map()])
  def list_programs(session_id \\ nil, options \\ []) do
    {session_id, options} =
      case {session_id, options} do
        {[{_option, _value} | _rest] = options, []} -> {nil, options}
        given -> given
      end

    Operation.look_among(:list_programs, [session_id], CallOptions.new!(options))
  end

  @doc """
  Describes a program, which is a `%DSPex.Program{}` or its id: its signature, its stages, how often it was called.

  Does not count as use of the session, which is closed when it is idle for too long.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, description} = DSPex.Python.describe_program(program)
      iex> {description["signature"], description["calls"]}
      {"question: str -> answer: str", 0}
  """
  @spec describe_program(program(), options()) :: result(map())
  def describe_program(program, options \\ []),
    do: ProgramCalls.describe(program, CallOptions.new!(options))

  @doc """
  Deletes a program, which is a `%DSPex.Program{}` or its id, with all of its versions, so that `:version` is refused; returns its
  description.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, _description} = DSPex.Python.delete_program(program)
      iex> {:error, error} = DSPex.Python.execute_program(program, "Why?")
      iex> error.kind
      :program_not_found
  """
  @spec delete_program(program(), options()) :: result(map())
  def delete_program(program, options \\ []),
    do: ProgramCalls.delete(program, CallOptions.new!(options))

  @doc """
  Lists the conversations of a program that was created with `history: true`; without their turns.

  Such a program is called with `conversation: "user-42"` (any text), or through the session of a user with `:session_id`, which
  need not be the program's own session; a call that says neither is an error. The program shows its model the last 50 turns of that
  conversation, and no others. A conversation begins with its first call, belongs to all versions of its program, and ends with
  `delete_conversation/3`, with the program, or with the session of the user.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer", history: true)
      iex> {:ok, _answer} = DSPex.Python.execute_program(program, "What is ETF?", conversation: "user-42")
      iex> {:ok, [listed]} = DSPex.Python.list_conversations(program)
      iex> {listed["id"], listed["turn_count"]}
      {"user-42", 1}
      iex> {:error, error} = DSPex.Python.execute_program(program, "What is ETF?")
      iex> {error.kind, error.path}
      {:input, "opts.conversation"}
  """
  @spec list_conversations(program(), options()) :: result([map()])
  def list_conversations(program, options \\ []),
    do: ProgramCalls.conversation(:list_conversations, program, [], CallOptions.new!(options))

  @doc """
  Returns a conversation of a program: a map with its `"turns"`, oldest first, as `seed_conversation/4` takes them.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer", history: true)
      iex> turns = [%{question: "What is ETF?", answer: "A format."}]
      iex> {:ok, _seeded} = DSPex.Python.seed_conversation(program, "user-42", turns)
      iex> {:ok, conversation} = DSPex.Python.conversation(program, "user-42")
      iex> conversation["turns"]
      [%{"question" => "What is ETF?", "answer" => "A format."}]
  """
  @spec conversation(program(), String.t(), options()) :: result(map())
  def conversation(program, id, options \\ []),
    do: ProgramCalls.conversation(:conversation, program, [id], CallOptions.new!(options))

  @doc """
  Sets the turns of a conversation, which begins if there is none of that id; returns its description.

  A turn is a map of the program's fields. If the program has one input and one output of text, messages are taken too:
  `%{role: "user", content: "…"}` and `%{role: "assistant", content: "…"}`. Of more than 50 turns the last 50 are kept.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer", history: true)
      iex> turns = [%{role: "user", content: "Hi"}, %{role: "assistant", content: "Hello"}]
      iex> {:ok, seeded} = DSPex.Python.seed_conversation(program, "user-42", turns)
      iex> seeded["turn_count"]
      1
  """
  @spec seed_conversation(program(), String.t(), [map()], options()) ::
          result(map())
  def seed_conversation(program, id, turns, options \\ []) do
    options = CallOptions.new!(options)
    ProgramCalls.conversation(:seed_conversation, program, [id, turns], options)
  end

  @doc """
  Deletes the oldest turns of a conversation, so that the last `keep` are left; returns its description.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer", history: true)
      iex> turns = for number <- 1..3, do: %{question: "Q\#{number}", answer: "A"}
      iex> {:ok, _seeded} = DSPex.Python.seed_conversation(program, "user-42", turns)
      iex> {:ok, cut} = DSPex.Python.cut_conversation(program, "user-42", 1)
      iex> cut["turn_count"]
      1
  """
  @spec cut_conversation(program(), String.t(), non_neg_integer(), options()) ::
          result(map())
  def cut_conversation(program, id, keep, options \\ []) do
    options = CallOptions.new!(options)
    ProgramCalls.conversation(:cut_conversation, program, [id, keep], options)
  end

  @doc """
  Deletes a conversation with all of its turns; returns its description.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer", history: true)
      iex> {:ok, _seeded} = DSPex.Python.seed_conversation(program, "user-42", [])
      iex> {:ok, deleted} = DSPex.Python.delete_conversation(program, "user-42")
      iex> deleted["id"]
      "user-42"
  """
  @spec delete_conversation(program(), String.t(), options()) :: result(map())
  def delete_conversation(program, id, options \\ []),
    do: ProgramCalls.conversation(:delete_conversation, program, [id], CallOptions.new!(options))

  @doc """
  Opens a session that may spend no more than this on models, or sets what one may spend that is open; returns its description.

  `limits` are `:max_cost` (US dollars) and `:max_tokens_total`. A session that is open keeps a limit that is left out; `nil` removes it. At the limit, calls of the session end with
  kind `:budget`. What was spent is under `"budget"`, here and in `list_sessions/1`; setting other limits does not forget it.
  A session need not be opened otherwise: the first program or model in it opens it.

      iex> {:ok, session} = DSPex.Python.open_session("user-43", max_cost: 0.5)
      iex> session["budget"]
      %{"max_cost" => 0.5, "max_tokens_total" => nil, "cost" => 0.0, "total_tokens" => 0}
      iex> {:ok, again} = DSPex.Python.open_session("user-43", max_tokens_total: 10_000)
      iex> again["budget"]["max_cost"]
      0.5
  """
  @spec open_session(String.t(), keyword() | map(), options()) :: result(map())
  def open_session(session_id, limits \\ [], options \\ []) do
    if options == [], do: CallOptions.refuse_limits!(limits)
    read = CallOptions.to_map!(limits, "limits")

    with :ok <- Keywords.check(limits, "limits"),
         do: about_one(:open_session, [session_id, read], options)
  end

  @doc """
  Lists what the tenants of a pool have spent, see its option `:budgets` in `DSPex.Python.Pool`: a map for each value of `metadata:` that
  calls have named, with `"key"`, `"value"`, `"cost"`, `"total_tokens"` and the limits.

      iex> DSPex.Python.list_budgets()
      {:ok, []}
  """
  @spec list_budgets(options()) :: result([map()])
  def list_budgets(options \\ []),
    do: with_budgets(options, &Budgets.report/1)

  @doc """
  Forgets what a tenant has spent, such as at the begin of a month; tells whether it has spent anything. A key for which the pool has no
  budgets is an error.

      iex> {:error, error} = DSPex.Python.reset_budget(:tenant, "acme")
      iex> error.message
      "pool :general has no budgets of :tenant; its option budgets: names none"
  """
  @spec reset_budget(atom() | String.t(), term(), options()) :: result(boolean())
  def reset_budget(key, value, options \\ []) do
    with {:ok, {:unknown, keys}} <- with_budgets(options, &Budgets.reset(&1, key, value)) do
      names = if keys == [], do: "none", else: Enum.map_join(keys, ", ", &inspect/1)
      %{pool: pool} = CallOptions.new!(options)

      {:error,
       Error.new(
         :input,
         "pool #{inspect(pool)} has no budgets of #{inspect(key)}; its option budgets: names #{names}"
       )}
    end
  end

  defp with_budgets(options, use) do
    options = CallOptions.new!(options)

    with :ok <- options.once,
         :ok <- CallOptions.refuse_others(options, []),
         do: Settings.with_budgets(options.pool, use)
  end

  @doc """
  Lists the sessions of the pool, each a map with `"id"` and `"programs"`, their ids. A worker that does not answer within `:timeout` is an
  error of kind `:timeout` that names it.

      iex> {:ok, program} = DSPex.Python.create_program([signature: "question -> answer"], session_id: "user-42")
      iex> {:ok, sessions} = DSPex.Python.list_sessions()
      iex> program.id in Enum.find(sessions, &(&1["id"] == "user-42"))["programs"]
      true
  """
  @spec list_sessions(options()) :: result([map()])
  def list_sessions(options \\ []),
    do: Operation.look_among(:list_sessions, [], CallOptions.new!(options))

  @doc """
  Returns the entry of `list_sessions/1` for one session, and under `"program_descriptions"` what `describe_program/2` returns
  for each program.

  Does not count as use of the session, which is closed when it is idle for too long.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, session} = DSPex.Python.session_info(program.session_id)
      iex> [description] = session["program_descriptions"]
      iex> {session["programs"] == [program.id], description["id"] == program.id}
      {true, true}
  """
  @spec session_info(String.t(), options()) :: result(map())
  def session_info(session_id, options \\ []),
    do: about_one(:session_info, [session_id], options)

  @doc """
  Writes the pool's whole store to a new file of JSON lines, for a backup or to move to another database; returns how many rows of each
  table it has. The file is private to its user, holds no key, and is the store at one moment; calls go on meanwhile.

  `import_store/2` reads it. `python -m erlport_bridge.store` does both without a pool, see "The store" in `docs/operations.md`.

      iex> {:ok, _program} = DSPex.Python.create_program("question -> answer")
      iex> path = Path.join(System.tmp_dir!(), "store-#{System.unique_integer([:positive])}-#{System.pid()}.jsonl")
      iex> {:ok, %{"program" => _count}} = DSPex.Python.export_store(path)
      iex> File.rm!(path)
      :ok
  """
  @spec export_store(Path.t(), options()) :: result(%{String.t() => non_neg_integer()})
  def export_store(path, options \\ []), do: transfer(:export_store, path, options)

  @doc """
  Reads a file of `export_store/2` into the pool's store, as a whole or not at all: a line that is wrong, or whose row is there already, is
  an error with its number. Returns how many rows of each table it has. Functions of Elixir and keys are given again.

      iex> {:error, error} = DSPex.Python.import_store("/no/such/store.jsonl")
      iex> error.kind
      :input
  """
  @spec import_store(Path.t(), options()) :: result(%{String.t() => non_neg_integer()})
  def import_store(path, options \\ []), do: transfer(:import_store, path, options)

  defp transfer(operation, path, options) do
    case expanded(path) do
      {:ok, path} ->
        about_one(operation, [path], options)

      :error ->
        message = "expected a path at path, got #{inspect(path, limit: 5)}"
        {:error, Error.new(:input, message, %{"path" => "path"})}
    end
  end

  defp expanded(empty) when empty in ["", []], do: :error

  defp expanded(path) when is_binary(path) or is_list(path) do
    {:ok, Path.expand(path)}
  rescue
    # A list that is no text.
    _error in [ArgumentError, UnicodeConversionError] -> :error
  end

  defp expanded(_other), do: :error

  @doc """
  Closes a session and deletes its programs; returns its description. Its model is gone with it.

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, closed} = DSPex.Python.close_session(program.session_id)
      iex> closed["programs"] == [program.id]
      true
  """
  @spec close_session(String.t(), options()) :: result(map())
  def close_session(session_id, options \\ []),
    do: SessionCalls.close(session_id, CallOptions.new!(options))

  @doc """
  Cancels the calls with this `request_id:`; returns their number.

  Each of them returns `{:error, %DSPex.Python.Error{kind: :cancelled}}`, and its request to the model is closed. A batch of several
  calls ends as a whole: what is left of it, further inputs of its stream too, is `:cancelled`. A call whose process ends is
  cancelled automatically.

  A worker that does not answer within `:timeout` is an error of kind `:timeout` that names it: its calls may go on. Those of the other workers
  are cancelled all the same; `error.details["cancelled"]` is their number.

      iex> DSPex.Python.cancel("a request that does not run")
      {:ok, 0}
  """
  @spec cancel(String.t(), options()) :: result(non_neg_integer())
  def cancel(request_id, options \\ []), do: about_one(:cancel, [request_id], options)

  @doc """
  Returns the calls that run in the pool's workers, the oldest first: what `top/0` shows, as data.

  Each is a map with `"operation"`, `"request_id"` (for `cancel/2`; `nil` if it has none), `"caller"` (its `:caller`, its session, or the
  process for which it was made), `"at_ms"` (when Python began it, as Unix time), `"age_ms"` (since then), `"stage"` (`"start"`, `"queue"`, `"module"`, `"model"`, `"rate_limit"`,
  `"tool"`, `"sandbox"`, …; of a batch that of the item that began last), `"worker"`, and from `{:cluster, name}` `"node"`. A batch in all
  workers is one call in each. Calls that wait for a worker are not among them; `metrics/1` counts them at `["pool"]["queued"]`.

  A worker that does not answer within `:timeout` is an error of kind `:timeout` that names it; `status/1` shows the others.

  Options: `:n` - how many, 100 by default and 10,000 at most.

      iex> test = self()
      iex> slow = {:elixir, fn _request -> send(test, :asked) && Process.sleep(:infinity) end}
      iex> options = [lm: slow, request_id: "a slow call"]
      iex> task = Task.async(fn -> DSPex.Python.execute_module("dspy.Predict", "question -> answer", "Why?", options) end)
      iex> receive do: (:asked -> :ok)
      iex> {:ok, calls} = DSPex.Python.running_calls()
      iex> for %{"request_id" => "a slow call"} = call <- calls, do: {call["operation"], call["stage"]}
      [{"execute_module", "model"}]
      iex> DSPex.Python.cancel("a slow call")
      {:ok, 1}
      iex> {:error, error} = Task.await(task)
      iex> error.kind
      :cancelled
  """
  @spec running_calls(options()) :: result([map()])
  def running_calls(options \\ []) do
    options = CallOptions.new!(options)
    Operation.look_among(:running_calls, [Map.take(options.python, [:n])], options, [:n])
  end

  @doc """
  Returns the counts and durations of the pool's workers together, since their start or since `reset_metrics/1`.

  A map with `"operations"`, `"modules"`, `"programs"` and `"models"`, each a map of names and their counts:
  `"calls"`, `"in_flight"`, `"errors"` by kind, `"duration_ms"` and `"queue_ms"` (each with `"mean"`, `"p50"`, `"p95"`,
  `"p99"` and `"max"`, or `nil`), `"total_tokens"`, `"cost"`, `"unpriced"` and `"cache_hits"`. For the process: `"uptime_ms"`,
  `"counted_ms"`, `"memory_bytes"`, `"peak_memory_bytes"`, `"held"` (`"sessions"` and `"programs"`), `"threads"` and
  `"sandboxes"`. `"workers"` has the same for each worker, with its `"worker"` and `"pid"`; `"pool"` says how many were `"started"`,
  `"died"` and were `"recycled"`, by reason, and how many calls are `"queued"`, were `"retried"` and `"overloaded"`.
  `docs/operations.md` explains each of them.

  A worker that does not answer within `:timeout` does not hide the others: `"unanswered"` has its `"worker"` (with its `"node"` in a cluster) and its `"error"`, and
  the counts are without it. Without any answer, it is an error.

      iex> {:ok, _prediction} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", "What is ETF?")
      iex> {:ok, metrics} = DSPex.Python.metrics()
      iex> module = metrics["modules"]["dspy.Predict"]
      iex> module["duration_ms"]["p50"] <= module["duration_ms"]["max"]
      true
  """
  @spec metrics(options()) :: result(map())
  def metrics(options \\ []),
    do: Operation.look_among(:metrics, [], CallOptions.new!(options))

  @doc """
  Returns the state of all pools, which IEx shows as a table and `to_string/1` as text: each worker with its state (`ready`, `starting`,
  `failed` if its start has failed and is tried again, `spare`, `draining`, or `silent` if it does not answer within 2 s), calls in flight, queue, memory,
  sessions and programs. Or of these pools; raises `ArgumentError` for a name without a pool.

      iex> status = DSPex.Python.status()
      iex> to_string(status) =~ "POOL"
      true
  """
  @spec status([atom()] | :all) :: Overview.t()
  defdelegate status(pools \\ :all), to: Overview, as: :of

  @doc """
  Shows in a terminal what the pools do, each second anew, until Enter (or `q` and Enter) is typed: workers, tokens a second, US dollars an hour,
  errors a minute, and the running calls with their age and stage, the oldest first.

  Options: `:interval` in ms, 1,000 by default; `:pools`, a list of names; `:frames`, after how many it ends by itself, without reading
  the input.

      iex> DSPex.Python.top(frames: 0)
      :ok
  """
  @spec top(keyword()) :: :ok
  defdelegate top(options \\ []), to: Top, as: :run

  @doc """
  Returns the last requests to language models that the pool's workers have made, the oldest first: what was asked, and what came of it.

  Options: `:n` - how many, 20 by default and 1,000 at most; `:request_id` and `:session_id` - only those of one call or session.

  Each is a map with `"at_ms"` (Unix time), `"duration_ms"`, `"request_id"`, `"session_id"`, `"model"` and `"asked"` (another one if a fallback
  model was asked), `"attempts"`, `"cache_hit"`, `"usage"`, `"cost"`, `"error"` (`"kind"` and `"message"`, or `nil`) and `"worker"`. With `history: :full` of the
  pool also `"messages"` and `"reply"`, a list of completions; otherwise they are `nil`. API keys are redacted. A worker that does not
  answer within `:timeout` is an error of kind `:timeout` that names it.

      iex> {:ok, _prediction} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", "What is ETF?", request_id: "shown")
      iex> {:ok, [request]} = DSPex.Python.history(request_id: "shown")
      iex> {request["model"], request["attempts"], request["error"]}
      {"embedded/extractive", 1, nil}
  """
  @spec history(options()) :: result([map()])
  def history(options \\ []), do: options |> CallOptions.new!() |> requests()

  defp requests(options) do
    names = [:n, :request_id, :session_id]
    Operation.look_among(:history, [Map.take(options.python, names)], options, names)
  end

  @doc """
  Prints the last requests to language models, as DSPy's `inspect_history` does; options as those of `history/1`, by default one.

      iex> DSPex.Python.inspect_history(request_id: "a request that was not made")
      :ok
  """
  @spec inspect_history(options()) :: :ok | {:error, Error.t()}
  def inspect_history(options \\ []) do
    options = options |> CallOptions.new!() |> CallOptions.put_new(:n, 1)

    with {:ok, requests} <- requests(options),
         do: requests |> HistoryText.write(IO.ANSI.enabled?()) |> IO.write()
  end

  @doc """
  Resets the metrics of the pool's Python, and returns their last values as `metrics/1` does; of a worker under `"unanswered"` they may be reset or not.

  The results of regular calls add up: each call ends in exactly one of them, with its error, its duration and its cost. Only
  `"calls"` counts a pending call in both periods, so `calls - in_flight` adds up.

      iex> {:ok, counted} = DSPex.Python.reset_metrics()
      iex> is_map(counted["operations"])
      true
  """
  @spec reset_metrics(options()) :: result(map())
  def reset_metrics(options \\ []),
    do: Operation.look_among(:reset_metrics, [], CallOptions.new!(options))

  @doc """
  Calls any operation by its name with its positional arguments; the other functions here use it too.

  Of `options` only those of every function are used; the operation's own options are the last of its arguments. The appendix of
  `docs/operations.md` has the operations and their arguments.

      iex> DSPex.Python.call(:list_modules, []) == DSPex.Python.list_modules()
      true
  """
  @spec call(atom(), [term()], options()) :: result(term())
  def call(operation, args, options \\ []),
    do: Operation.look_up(operation, args, CallOptions.new!(options))

  # What shows, changes or deletes something.
  defp about_one(operation, args, options),
    do: Operation.look_among(operation, args, CallOptions.new!(options))
end
