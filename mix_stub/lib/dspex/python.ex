defmodule DSPex.Python do
  @moduledoc """
  DSPy's operations, one function each.

      iex> {:ok, prediction} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", %{question: "What is ETF?"})
      iex> is_binary(prediction[:answer])
      true

  Every function returns `{:ok, result}` or `{:error, %DSPex.Python.Error{}}`. It raises only for misuse: an option of
  the wrong type.

  ## Options of every function

  A keyword list or a map with atom keys.

    * `:pool` - the pool that is asked; `:general` by default. See `DSPex.Python.Pool`
    * `:timeout` - in ms, 1 or more, or `:infinity`; 30,000 by default. One budget for everything: Python stops the work at its
      end, and the caller has its answer about 50 ms later at most
    * `:serialization_format` - `:native` (the default) or `:json`, which gives the same results more slowly

  The functions that execute something also take `:session_id`, `:request_id`, `:lm` (a model for this call, written as in
  `DSPex.Python.Pool`), `:demos`,
  `:tools` (see `DSPex.Python.Tool`), and settings of the model (`:temperature`, `:max_tokens`, …) and of the module (`:max_iters`, …). What
  nobody takes does not fail the call: it is named in `prediction.warnings`.

  ## Values

  | Elixir | Python | back |
  | --- | --- | --- |
  | `nil`, `true`, `false` | `None`, `True`, `False` | the same |
  | other atom | `Atom`, a `str` | the same atom |
  | binary, UTF-8 or not | `str` or `bytes` | the same binary |
  | integer, float, list, tuple, map | `int`, `float`, `list`, `tuple`, `dict` | the same |
  | `DSPex.Value`: images, audio, files | DSPy's own types | a map with `"$type"`, an input again |
  | pid, reference, port, fun, bitstring | an opaque object | the same |
  | | NaN, infinity, -infinity | `:nan`, `:infinity`, `:neg_infinity` |
  | | any other object | an error of kind `:encode` that names its path |

  ## Telemetry

  When the application has `:telemetry`, each call ends with the event `[:dspex, :python, :call, :stop]`, the
  measurement `duration` (native time units), and the metadata `pool`, `operation` and `result` (`:ok`, or the kind of
  the error).
  """

  import DSPex.Python.Arguments
  import DSPex.Python.Operation, only: [event_stream: 4, with_functions: 3]
  import DSPex.Python.Results

  alias DSPex.{Prediction, Program}

  alias DSPex.Python.{
    CallOptions,
    Error,
    Model,
    ModuleSpec,
    Operation,
    Pool,
    Pools,
    ProgressLine
  }

  @type options :: keyword() | %{optional(atom()) => term()}
  @type signature :: String.t() | map()
  @type inputs :: map() | keyword() | String.t()
  @type result(value) :: {:ok, value} | {:error, Error.t()}

  @doc """
  Starts a pool under the supervision of `:dspex`. Options: see `DSPex.Python.Pool`; an unknown one raises.

  Does not wait for Python: calls do. Answers `{:error, {:already_started, pid}}` if there is a pool of that name, and
  `{:error, :not_started}` if the application `:dspex` has not been started.
  """
  @spec start_pool(atom(), keyword()) :: {:ok, pid()} | {:error, term()}
  defdelegate start_pool(name, options), to: Pools

  @doc """
  Stops a pool that the configuration or `start_pool/2` started. Calls in flight are answered with an error.
  """
  @spec stop_pool(atom()) :: :ok | {:error, :not_found}
  defdelegate stop_pool(name), to: Pools

  @doc """
  Asks whether the pool's Python answers, and gives `payload` back among what it tells of itself.

  ## Examples

      iex> {:ok, pong} = DSPex.Python.ping({:any, ["term"]})
      iex> pong["payload"]
      {:any, ["term"]}
  """
  @spec ping(term(), options()) :: result(map())
  def ping(payload \\ nil, options \\ []), do: call(:ping, [payload], options)

  @doc """
  Sets the language model of the pool, or of one session with the option `:session_id`.

  `config` takes what the provider takes: `:model`, `:api_key`, `:api_base`, `:temperature`, `:fallbacks`, `:cache`,
  `:requests_per_minute`, …; a value
  `{:system, variable}` is read from the environment of the BEAM. `configure_lm(:elixir, function: function)` sets a model
  that is a function, see `DSPex.Python.ModelFunction`. The pool's own model is better written in its
  configuration, because this setting is lost when Python is restarted.

  ## Examples

      iex> {:ok, _model} = DSPex.Python.configure_lm(:embedded)
  """
  @spec configure_lm(Model.provider(), keyword() | map(), options()) :: result(map())
  def configure_lm(provider, config \\ %{}, options \\ []) do
    options = CallOptions.new!(options)
    python_options = CallOptions.without_deadline(options)

    pool = CallOptions.pool!(options)

    with {:ok, model} <- Model.checked(provider, config),
         {:ok, {provider, config}, callbacks} <- Model.resolve(model, pool) do
      Pool.configure_model(pool, options[:session_id], model, callbacks, fn ->
        call(:configure_lm, [provider, config, python_options], options)
      end)
    end
  end

  @doc """
  Lists the names of the DSPy modules that can be executed.

  ## Examples

      iex> {:ok, names} = DSPex.Python.list_modules()
      iex> "dspy.ReAct" in names
      true
  """
  @spec list_modules(options()) :: result([String.t()])
  def list_modules(options \\ []), do: call(:list_modules, [], options)

  @doc """
  Describes a DSPy module: what it does, what its constructor takes, what it gives.
  """
  @spec describe_module(String.t(), options()) :: result(map())
  def describe_module(name, options \\ []), do: call(:describe_module, [name], options)

  @doc """
  Checks a module, a signature and options as `execute_module/4` would, without asking a model.

  Gives the signature as Python understood it, and warnings of options that nobody takes.
  """
  @spec validate_module(ModuleSpec.t(), signature() | nil, options()) :: result(map())
  def validate_module(name, signature, options \\ []) do
    options = CallOptions.new!(options)

    with_functions(name, options, fn name, python_options ->
      call(:validate_module, [name, signature, python_options], options)
    end)
  end

  @doc """
  Executes a DSPy module: one by its name, or several that run one another, see `DSPex.Python.ModuleSpec`.

  `signature` is text such as `"context, question -> answer: str, score: float"`, or a map with `:inputs`, `:outputs`
  and `:instructions`. `inputs` is a map (or keyword list) of the input fields, or text for the first of them.

  ## Examples

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
  def execute_module(module, signature, inputs, options \\ []) do
    options = CallOptions.new!(options)

    executed =
      with_functions(module, options, fn module, python_options ->
        args = [module, signature, python_inputs(inputs), python_options]
        call(:execute_module, args, options)
      end)

    with {:ok, term} <- executed, do: {:ok, Prediction.from_term(term)}
  end

  @doc """
  Executes a DSPy module as `execute_module/4` does, and gives what there is of its answer while the model writes it.

  The stream emits

    * `{:chunk, field, text}` - the next piece of a text field; all pieces of a field together are its text
    * `{:status, map}` - what begins: `"stage"` is `"module"`, `"model"` or `"tool"`, and `"name"` its name
    * `{:prediction, prediction}` or `{:error, error}` - the last element

  Nothing is asked before the first element is wanted, and each enumeration asks anew. A stream that is halted, or whose
  process ends, ends its call and closes the request to the model. An element that is taken late is made late: at most
  `:buffer` (64 by default) are on their way, then the model's answer is read no further; the `:timeout` goes on.

  Fields come whole, as one piece, from a model that does not stream (`:embedded`), with an `:adapter` other than
  `"chat"`, and of modules that run code. A field that is no text is in the prediction only. Once the model
  has begun to write, an answer that cannot be read is an error: DSPy does not ask again.

  ## Examples

      iex> stream = DSPex.Python.stream("dspy.Predict", "context, question -> answer",
      ...>   %{context: "Lisbon is the capital of Portugal.", question: "What is the capital of Portugal?"})
      iex> Enum.any?(stream, &match?({:chunk, "answer", _text}, &1))
      true
  """
  @spec stream(ModuleSpec.t(), signature() | nil, inputs(), options()) :: Enumerable.t()
  def stream(module, signature, inputs, options \\ []) do
    args = [signature, python_inputs(inputs)]

    options
    |> CallOptions.new!()
    |> event_stream(:stream_module, module, args)
    |> Stream.map(&element/1)
  end

  @doc """
  Executes a program as `execute_program/3` does, and gives what there is of its answer meanwhile, as `stream/4`.

  Of a field that several stages give, the pieces are the last one's.
  """
  @spec stream_program(Program.t() | String.t(), inputs(), options()) :: Enumerable.t()
  def stream_program(program, inputs, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)
    args = [program_id, python_inputs(inputs)]
    options |> event_stream(:stream_program, session_id, args) |> Stream.map(&element/1)
  end

  @doc """
  Executes a DSPy module once for each element of `inputs_list`, at the same time, within one timeout.

  The results are in the order of the inputs; each is `{:ok, prediction}` or `{:error, error}` of its own.

  Options beside those of `execute_module/4`:

    * `:max_concurrency` - how many run at the same time; 16 by default, 256 at most
    * `:item_timeout` - what each may take, in ms, within the `:timeout` of all
    * `:on_error` - `:collect` (the default), or `:fail_fast`: the first error ends the others, whose errors have the kind
      `:cancelled`
  """
  @spec execute_batch(ModuleSpec.t(), signature() | nil, [inputs()], options()) ::
          result([result(Prediction.t())])
  def execute_batch(module, signature, inputs_list, options \\ []) do
    options = CallOptions.new!(options)
    inputs_list = python_inputs_list(inputs_list)

    executed =
      with_functions(module, options, fn module, python_options ->
        call(:execute_batch, [module, signature, inputs_list, python_options], options)
      end)

    with {:ok, terms} <- executed, do: {:ok, Enum.map(terms, &batch_result/1)}
  end

  @doc """
  Executes a program once for each element of `inputs_list`, as `execute_batch/4` does with a module.
  """
  @spec execute_program_batch(Program.t() | String.t(), [inputs()], options()) ::
          result([result(Prediction.t())])
  def execute_program_batch(program, inputs_list, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)
    inputs_list = python_inputs_list(inputs_list)

    executed =
      with_functions(session_id, options, fn session_id, python_options ->
        args = [session_id, program_id, inputs_list, python_options]
        call(:execute_program_batch, args, options)
      end)

    with {:ok, terms} <- executed, do: {:ok, Enum.map(terms, &batch_result/1)}
  end

  @doc """
  Executes a program for each of `examples` and scores its predictions.

  An example is a map (or keyword list) with the program's inputs, and whatever the metric compares with. `metric` is a function of the
  example, with strings as keys, and the `DSPex.Prediction`, which gives a number from 0 to 1, a boolean, or `%{score: number, feedback: text}`; or a check as
  in `DSPex.Python.ModuleSpec`, whose `:input` names what the example says: `%{check: :equals, field: :answer, input: :expected}`;
  or one of `"exact_match"`, `"f1"`, `"contains"`, `"equals"` and `"semantic_f1"`, which compare the program's first output with the
  example's field of that name. The model of the call judges for `"semantic_f1"`.

  Gives a map with `:score` (0 to 100), `:count`, `:failed`, `:total_tokens`, `:duration_ms`, and `:results` in the order of the
  examples: `{:ok, %{prediction: prediction, score: score, feedback: text | nil}}`, or `{:error, error}` where the call or the metric failed. Those count as
  `:failure_score`, 0.0 by default. `progress: true` draws a line of progress on standard error, and a function of one argument is told
  of each element of `stream_evaluate/4`. Other options are those of `execute_batch/4`.

  ## Examples

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
  @spec evaluate_program(Program.t() | String.t(), [inputs()], metric, options()) :: result(map())
        when metric: (map(), Prediction.t() -> number() | boolean() | map()) | map() | String.t()
  def evaluate_program(program, examples, metric, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)
    {progress, options} = Map.pop(options, :progress)

    if progress in [nil, false] do
      examples = python_inputs_list(examples)

      evaluated =
        with_functions(session_id, Map.put(options, :metric, metric), fn session_id,
                                                                         python_options ->
          call(:evaluate_program, [session_id, program_id, examples, python_options], options)
        end)

      with {:ok, report} <- evaluated, do: {:ok, evaluation(report)}
    else
      program |> stream_evaluate(examples, metric, options) |> ProgressLine.follow(progress)
    end
  end

  @doc """
  Evaluates a program as `evaluate_program/4` does, and tells of each example as soon as it has its score.

  A lazy stream, with the behaviour of `stream/4`. Its elements are `{index, {:ok, %{prediction: …, score: …, feedback: …}} | {:error, error}}`, the
  index counted from 0, and at last `{:ok, evaluation}`, what `evaluate_program/4` gives, or `{:error, error}`.
  """
  @spec stream_evaluate(Program.t() | String.t(), [inputs()], term(), options()) :: Enumerable.t()
  def stream_evaluate(program, examples, metric, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)
    args = [program_id, python_inputs_list(examples)]

    options
    |> Map.put(:metric, metric)
    |> event_stream(:stream_evaluate, session_id, args)
    |> Stream.map(fn
      {:event, %{"index" => index, "result" => result}} -> {index, scored(result)}
      {:ok, report} -> {:ok, evaluation(report)}
      {:error, _error} = error -> error
    end)
  end

  @doc """
  Improves a program by examples, with one of DSPy's optimizers; gives its new version, beside the one before.

  `trainset` is a list of examples: maps with the program's inputs, and whatever the metric compares with or demos should
  show (the program's own outputs). The options beside those of `execute_program/3`:

    * `:optimizer` - required; `list_optimizers/1` names them, and `describe_optimizer/2` says what options each takes, which
      stand beside this one
    * `:metric` - as in `evaluate_program/4`. For `dspy.GEPA` a function may also give `%{score: 0.5, feedback: "too long"}`, which the
      model that writes instructions is told
    * `:valset` - examples to choose the best candidate by; without it some of the trainset do
    * `:num_threads` - how many examples run at the same time; 8 by default, 64 at most
    * `:max_errors` - after so many calls or metrics that fail, the error of the last one is the answer; 10 by default
    * `:progress` - `true` draws a line of progress on standard error; a function of one argument is told of each element of
      `stream_compile/3`

  `:timeout` is `:infinity` here unless it is given. A caller that ends, `cancel/2` and the end of the time end all that
  runs. Nothing is printed. At most four programs are compiled at a time on one pool.

  ## Examples

      iex> text = "Lisbon is the capital of Portugal. Paris is the capital of France."
      iex> {:ok, program} = DSPex.Python.create_program(signature: "text, question -> answer", modules: ["dspy.Predict"])
      iex> trainset = for {country, capital} <- [{"Portugal", "Lisbon"}, {"France", "Paris"}],
      ...>   do: %{text: text, question: "What is the capital of \#{country}?", answer: capital}
      iex> {:ok, better} = DSPex.Python.compile_program(program, trainset,
      ...>   optimizer: "dspy.BootstrapFewShot", metric: %{check: :contains, field: :answer, input: :answer})
      iex> {program.version, better.version, better.compiled.metric_calls}
      {1, 2, 2}
  """
  @spec compile_program(Program.t() | String.t(), [map()], options()) :: result(Program.t())
  def compile_program(program, trainset, options \\ []) do
    {session_id, program_id, options} = compile_target(program, options)
    {progress, options} = Map.pop(options, :progress, false)

    if progress in [nil, false] do
      compiled =
        with_functions(session_id, options, fn session_id, python_options ->
          args = [session_id, program_id, python_inputs_list(trainset), python_options]
          call(:compile_program, args, options)
        end)

      with {:ok, term} <- compiled, do: {:ok, Program.from_term(term, CallOptions.pool!(options))}
    else
      last = program |> stream_compile(trainset, options) |> ProgressLine.follow(progress)
      with {:program, compiled} <- last, do: {:ok, compiled}
    end
  end

  @doc """
  Improves a program as `compile_program/3` does, and tells of it meanwhile.

  A lazy stream, with the behaviour of `stream/4`; its elements:

    * `{:scored, %{score: score, metric_calls: count, failures: count, best_score: score | nil}}` - one answer was scored
    * `{:candidate, %{number: number, score: score, best_score: score}}` - one candidate was scored with all its examples
    * `{:program, program}` or `{:error, error}` - the last element
  """
  @spec stream_compile(Program.t() | String.t(), [map()], options()) :: Enumerable.t()
  def stream_compile(program, trainset, options \\ []) do
    {session_id, program_id, options} = compile_target(program, options)
    pool = CallOptions.pool!(options)
    args = [program_id, python_inputs_list(trainset)]

    options
    |> event_stream(:stream_compile, session_id, args)
    |> Stream.map(&compile_element(&1, pool))
  end

  @doc """
  Lists the optimizers that can compile a program.
  """
  @spec list_optimizers(options()) :: result([String.t()])
  def list_optimizers(options \\ []), do: call(:list_optimizers, [], options)

  @doc """
  Describes an optimizer: what it does, its options with types and defaults, and whether all that it needs is installed.
  """
  @spec describe_optimizer(String.t(), options()) :: result(map())
  def describe_optimizer(name, options \\ []), do: call(:describe_optimizer, [name], options)

  @doc """
  Gives a program as JSON text, with what it has learned: to be kept in a file or a database, and loaded by `load_program/2`.

  Its model, its keys, its conversation and its session are not in it.

  ## Examples

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer", modules: ["dspy.Predict"])
      iex> {:ok, json} = DSPex.Python.dump_program(program)
      iex> {:ok, again} = DSPex.Python.load_program(json)
      iex> {:ok, %DSPex.Prediction{}} = DSPex.Python.execute_program(again, "What is ETF?")
      iex> again.id == program.id
      false
  """
  @spec dump_program(Program.t() | String.t(), options()) :: result(String.t())
  def dump_program(program, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)
    python_options = Map.take(options, [:version])
    call(:dump_program, [session_id, program_id, python_options], options)
  end

  @doc """
  Makes a program of what `dump_program/2` gave. Options `:session_id`; `:lm`, its model; and
  `:allow_urls`, whether images of its examples may be addresses.

  The text is checked like a spec that a caller writes: it runs no code, and names no model, no address and no key. What is
  wrong with it is an error of kind `:store`, or of the kind that `create_program/2` gives.
  """
  @spec load_program(String.t(), options()) :: result(Program.t())
  def load_program(text, options \\ []) do
    options = CallOptions.new!(options)
    pool = CallOptions.pool!(options)

    with {:ok, python_options} <-
           python_spec(Map.take(options, [:session_id, :lm, :allow_urls]), pool),
         {:ok, term} <- call(:load_program, [text, python_options], options),
         do: {:ok, Program.from_term(term, pool)}
  end

  @batch_chunk 1_000

  @doc """
  Executes a DSPy module once for each of `inputs`, and gives the results as they come.

  The stream emits `{index, {:ok, prediction} | {:error, error}}`, the index counted from 0 in the order of the inputs, and
  at last `{:error, error}` if the batch as a whole has failed. `inputs` may be any enumerable; #{@batch_chunk} of them are
  taken at a time, within one `:timeout`, and no more than the reader has room for are asked ahead (`:buffer`, as in
  `stream/4`). Halting it ends the rest. Options as those of `execute_batch/4`.

  ## Examples

      iex> text = "Lisbon is the capital of Portugal. Paris is the capital of France."
      iex> inputs = Stream.map(["Portugal", "France"], &%{text: text, question: "What is the capital of \#{&1}?"})
      iex> results = "dspy.Predict" |> DSPex.Python.stream_batch("text, question -> answer", inputs) |> Enum.sort()
      iex> for {index, {:ok, prediction}} <- results, do: {index, prediction[:answer] =~ ~r/Lisbon|Paris/}
      [{0, true}, {1, true}]
  """
  @spec stream_batch(ModuleSpec.t(), signature() | nil, Enumerable.t(), options()) ::
          Enumerable.t()
  def stream_batch(module, signature, inputs, options \\ []) do
    options = CallOptions.new!(options)

    inputs
    |> Stream.chunk_every(@batch_chunk)
    |> Stream.transform(0, fn chunk, offset ->
      args = [signature, python_inputs_list(chunk)]

      results =
        options |> event_stream(:stream_batch, module, args) |> Stream.flat_map(&item(&1, offset))

      {results, offset + length(chunk)}
    end)
  end

  @doc """
  Creates a program in a session: in that of the option `:session_id`, or else in a new one.

  `spec` is a map (or keyword list) with `:signature` and `:modules`, a list of modules (names, or maps as in
  `DSPex.Python.ModuleSpec`), which are executed one after the other; each gets the inputs and the outputs of those before it. A map may
  also have a `:name`, and `:inputs` that name other stages: `inputs: %{context: "search.passages"}`; `:outputs` of the spec chooses what
  the program gives.

  ## Examples

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
  def create_program(spec, options \\ []) do
    options = CallOptions.new!(options)

    with {:ok, spec} <- python_spec(spec, CallOptions.pool!(options)),
         args = [spec, CallOptions.without_deadline(options)],
         {:ok, term} <- call(:create_program, args, options) do
      {:ok, Program.from_term(term, CallOptions.pool!(options))}
    end
  end

  @doc """
  Executes a program, which is a `%DSPex.Program{}` or its id.

  A `%DSPex.Program{}` is executed in its own version, an id in the newest one, unless the option `:version` says otherwise.

  A version of `dspy.KNNFewShot` takes `:embedder` (a function of a list of texts that gives their vectors), or `:vector`, that of the inputs.
  """
  @spec execute_program(Program.t() | String.t(), inputs(), options()) :: result(Prediction.t())
  def execute_program(program, inputs, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)

    executed =
      with_functions(session_id, options, fn session_id, python_options ->
        args = [session_id, program_id, python_inputs(inputs), python_options]
        call(:execute_program, args, options)
      end)

    with {:ok, term} <- executed, do: {:ok, Prediction.from_term(term)}
  end

  @doc """
  Lists the programs of a session, or of all sessions for `nil`.
  """
  @spec list_programs(String.t() | nil, options()) :: result([map()])
  def list_programs(session_id \\ nil, options \\ []),
    do: call(:list_programs, [session_id], options)

  @doc """
  Describes a program, which is a `%DSPex.Program{}` or its id: its signature, its stages, how often it was called.

  Only looks: a session that is otherwise idle is closed all the same.

  ## Examples

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, description} = DSPex.Python.describe_program(program)
      iex> {description["signature"], description["calls"]}
      {"question: str -> answer: str", 0}
  """
  @spec describe_program(Program.t() | String.t(), options()) :: result(map())
  def describe_program(program, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)
    call(:describe_program, [session_id, program_id, Map.take(options, [:version])], options)
  end

  @doc """
  Deletes a program, which is a `%DSPex.Program{}` or its id; gives what it was.
  """
  @spec delete_program(Program.t() | String.t(), options()) :: result(map())
  def delete_program(program, options \\ []) do
    {session_id, program_id, options} = program_target(program, options)
    # With all of its versions.
    call(:delete_program, [session_id, program_id], options)
  end

  @doc """
  Lists the sessions of the pool.
  """
  @spec list_sessions(options()) :: result([map()])
  def list_sessions(options \\ []), do: call(:list_sessions, [], options)

  @doc """
  Gives what `list_sessions/1` gives of one session, and `"program_descriptions"`, as of `describe_program/2`.

  Only looks: a session that is otherwise idle is closed all the same.

  ## Examples

      iex> {:ok, program} = DSPex.Python.create_program(signature: "question -> answer")
      iex> {:ok, session} = DSPex.Python.session_info(program.session_id)
      iex> [description] = session["program_descriptions"]
      iex> {session["programs"] == [program.id], description["id"] == program.id}
      {true, true}
  """
  @spec session_info(String.t(), options()) :: result(map())
  def session_info(session_id, options \\ []), do: call(:session_info, [session_id], options)

  @doc """
  Closes a session; its programs are gone with it. Gives what it was.
  """
  @spec close_session(String.t(), options()) :: result(map())
  def close_session(session_id, options \\ []) do
    with {:ok, closed} <- call(:close_session, [session_id], options) do
      options |> CallOptions.new!() |> CallOptions.pool!() |> Pool.forget_model(session_id)
      {:ok, closed}
    end
  end

  @doc """
  Cancels the calls that were given this id as their `request_id:`; gives how many there were.

  Each answers `{:error, %DSPex.Python.Error{kind: :cancelled}}`, and its request to the model is closed. A call whose
  process ends is cancelled without being asked for.
  """
  @spec cancel(String.t(), options()) :: result(non_neg_integer())
  def cancel(request_id, options \\ []), do: call(:cancel, [request_id], options)

  @doc """
  Gives the counts and durations of the pool's Python since it was started, or since `reset_metrics/1`.

  A map with `"operations"`, `"modules"`, `"programs"` and `"models"`, each a map of names and what was counted of them:
  `"calls"`, `"in_flight"`, `"errors"` by kind, `"duration_ms"` and `"queue_ms"` (each with `"mean"`, `"p50"`, `"p95"`,
  `"p99"` and `"max"`, or `nil`), `"total_tokens"`, `"cost"`, `"unpriced"` and `"cache_hits"`. Of the process: `"uptime_ms"`,
  `"counted_ms"`, `"memory_bytes"`, `"peak_memory_bytes"`, `"held"` (`"sessions"` and `"programs"`), `"threads"` and
  `"sandboxes"`. What each means is in `docs/operations.md`.

  ## Examples

      iex> {:ok, _prediction} = DSPex.Python.execute_module("dspy.Predict", "question -> answer", "What is ETF?")
      iex> {:ok, metrics} = DSPex.Python.metrics()
      iex> module = metrics["modules"]["dspy.Predict"]
      iex> module["duration_ms"]["p50"] <= module["duration_ms"]["max"]
      true
  """
  @spec metrics(options()) :: result(map())
  def metrics(options \\ []), do: call(:metrics, [], options)

  @doc """
  Has the pool's Python count anew, and gives what it has counted until then, as `metrics/1`.

  Called every so often, the results add up: each call has its end, with its error, its duration and what it cost, in one of
  them. Only `"calls"` has those in flight in both periods, so it is `calls - in_flight` that adds up.

  ## Examples

      iex> {:ok, counted} = DSPex.Python.reset_metrics()
      iex> is_map(counted["operations"])
      true
  """
  @spec reset_metrics(options()) :: result(map())
  def reset_metrics(options \\ []), do: call(:reset_metrics, [], options)

  @doc """
  Calls any operation by its name with its positional arguments; what the other functions here are made of.

  Of `options` only those of every function are used; an operation's own are the last of its arguments.
  """
  @spec call(atom(), [term()], options()) :: result(term())
  defdelegate call(operation, args, options \\ []), to: Operation
end
