defmodule DSPex.Trace.PageTest do
  # Shows pages in a real browser.
  use ExUnit.Case, async: true

  alias DSPex.{Browser, Trace}

  @moduletag skip: Browser.missing()
  @moduletag :tmp_dir

  # An agent in a program in a batch: a cached answer, a fallback after an error, a tool that fails, a cancelled item.
  @tree [
    {"call", nil, "execute_program_batch", 0, 900,
     %{"pool" => "general", "metadata" => %{"tenant" => "a"}}},
    {"queue", 0, "queue", 0, 5, %{}},
    {"python", 0, "python", 5, 890, %{"worker" => 1}},
    {"item", 2, "item 0", 6, 400, %{"index" => 0}},
    {"module", 3, "dspy.ReAct", 7, 395, %{"stage" => "agent"}},
    {"model", 4, "openai/gpt-4o-mini", 10, 100,
     %{
       "model" => "gpt-4o-mini",
       "input_tokens" => 90,
       "output_tokens" => 30,
       "total_tokens" => 120,
       "cost" => 0.0012,
       "attempts" => 2,
       "retries" => [%{"kind" => "rate_limit", "message" => "slow down", "after_us" => 7_000}],
       "messages" => [
         %{"role" => "system", "content" => "Be brief."},
         %{
           "role" => "user",
           "content" => "What is <b>ETF</b>?</script><script>window.broken = 1</script>"
         }
       ],
       "reply" => ["<img src=x onerror='window.broken = 2'>An external term format."]
     }},
    {"tool", 4, "search", 120, 50, %{"arguments" => %{"q" => "ETF"}}, "error"},
    {"model", 4, "openai/gpt-4o-mini", 180, 90,
     %{"total_tokens" => 80, "cost" => 0.0, "cache_hit" => true}},
    {"sandbox", 4, "sandbox", 280, 60, %{"code" => "print(1)", "output" => "1"}},
    {"item", 2, "item 1", 7, 500, %{"index" => 1}},
    {"module", 9, "dspy.Predict", 8, 490, %{}, "error"},
    {"model", 10, "openai/gpt-4o", 9, 200, %{}, "error"},
    {"model", 10, "anthropic/claude", 210, 280,
     %{"total_tokens" => 1_300, "cost" => 0.02, "fallback_for" => "gpt-4o"}},
    {"item", 2, "item 2", 8, 300, %{"index" => 2}, "cancelled"}
  ]

  defp trace(tree \\ @tree) do
    spans =
      for {span, number} <- Enum.with_index(tree) do
        [kind, parent, name, start, takes, attributes | status] = Tuple.to_list(span)
        status = List.first(status) || "ok"

        %{
          "id" => "s#{number}",
          "parent" => parent && "s#{parent}",
          "kind" => kind,
          "name" => name,
          "start_us" => 1_700_000_000_000_000 + 1_000 * start,
          "duration_us" => 1_000 * takes,
          "status" => status,
          "error" =>
            if(status == "error", do: %{"kind" => "tool", "message" => "no <index> there"}),
          "attributes" => attributes
        }
      end

    %Trace{id: "0af7651916cd43dd8448eb211c80319c", spans: spans}
  end

  setup_all do
    if Browser.missing(), do: :ok, else: {:ok, browser: Browser.start!()}
  end

  defp open(%{browser: browser, tmp_dir: folder}, trace) do
    path = Path.join(folder, "trace.html")
    assert Trace.write_html(trace, path) == :ok
    Browser.open(browser, path)
    browser
  end

  # The level of each row that is drawn, and its label.
  defp rows(browser) do
    Browser.run(browser, """
    return [...document.querySelectorAll(".row")]
      .sort((a, b) => parseInt(a.style.top) - parseInt(b.style.top))
      .map((row) => [row.getAttribute("aria-level") * 1, row.querySelector(".label").textContent])
    """)
  end

  defp chosen(browser) do
    Browser.run(
      browser,
      ~s|return document.querySelector('.row[aria-selected="true"] .label').textContent|
    )
  end

  defp text(browser, selector),
    do: Browser.run(browser, "return document.querySelector(arguments[0]).innerText", [selector])

  test "shows the tree, the totals and the first span", context do
    browser = open(context, trace())

    assert rows(browser) == [
             [1, "execute_program_batch"],
             [2, "queue"],
             [2, "python"],
             [3, "item 0"],
             [4, "dspy.ReAct"],
             [5, "openai/gpt-4o-mini"],
             [5, "search"],
             [5, "openai/gpt-4o-mini"],
             [5, "sandbox"],
             [3, "item 1"],
             [4, "dspy.Predict"],
             [5, "openai/gpt-4o"],
             [5, "anthropic/claude"],
             [3, "item 2"]
           ]

    totals = browser |> text("#totals") |> String.replace("\n", " ")

    for part <- ["time 900 ms", "spans 14", "requests to models 4 (1 from the cache)"] do
      assert totals =~ part
    end

    for part <- ["tokens 1,500", "cost $0.021", "errors 3", "began 2023-11-14"] do
      assert totals =~ part
    end

    assert text(browser, "#title") == "execute_program_batch"
    assert text(browser, "#detail") =~ ~r/execute_program_batch\s+call, ok/
    assert text(browser, "#detail") =~ ~s|"tenant": "a"|
  end

  test "bars are where their times are", context do
    browser = open(context, trace())

    [[lane, call], [_lane, item]] =
      Browser.run(browser, """
      return [0, 9].map((row) => {
        const lane = document.querySelector(`#span-${row} .lane`).getBoundingClientRect()
        const bar = document.querySelector(`#span-${row} .bar`).getBoundingClientRect()
        return [lane.width, [bar.left - lane.left, bar.width]]
      })
      """)

    assert_in_delta Enum.at(call, 0), 0, 2
    assert_in_delta Enum.at(call, 1), lane, 2
    assert_in_delta Enum.at(item, 0), lane * 7 / 900, 2
    assert_in_delta Enum.at(item, 1), lane * 500 / 900, 2
  end

  test "texts of models are shown as they are, and never become markup", context do
    browser = open(context, trace())
    Browser.click(browser, "#span-5 .label")
    detail = text(browser, "#detail")

    for part <- [
          "What is <b>ETF</b>?</script><script>window.broken = 1</script>",
          "<img src=x onerror='window.broken = 2'>An external term format.",
          "Be brief.",
          "rate_limit: slow down"
        ] do
      assert detail =~ part
    end

    assert [nil, 0, 2] ==
             Browser.run(browser, """
             return [window.broken, document.querySelectorAll("#detail img, #detail b, #detail script").length,
                     document.scripts.length]
             """)

    # Its policy lets no other script run, and nothing be fetched.
    assert [nil, 0] ==
             Browser.run(browser, """
             const script = document.createElement("script")
             script.textContent = "window.broken = 3"
             document.body.append(script)
             return [window.broken, performance.getEntriesByType("resource").length]
             """)
  end

  test "names of spans and kinds are texts too", context do
    spans = [
      %{
        "id" => "a",
        "parent" => "a",
        "kind" => "<i>odd</i>",
        "name" => "</title><script>window.broken = 1</script>",
        "start_us" => 5,
        "duration_us" => 0,
        "status" => "ok"
      }
    ]

    browser = open(context, %{"id" => "<b>", "spans" => spans})

    assert Browser.run(browser, "return [window.broken, document.title]") == [
             nil,
             "</title><script>window.broken = 1</script>, a trace"
           ]

    assert rows(browser) == [[1, "</title><script>window.broken = 1</script>"]]
    assert text(browser, "#span-0 .of") == "<i>odd</i>"
  end

  test "a link may name a span", context do
    browser = open(context, trace())
    Browser.run(browser, "location.hash = 's12'; location.reload()")
    assert chosen(browser) == "anthropic/claude"
  end

  test "everything can be done with keys", context do
    browser = open(context, trace())
    Browser.press(browser, [:down, :down, :down])
    assert chosen(browser) == "item 0"
    Browser.press(browser, :left)
    assert length(rows(browser)) == 9
    Browser.press(browser, [:right, :right])
    assert chosen(browser) == "dspy.ReAct"
    Browser.press(browser, :left)
    Browser.press(browser, :left)
    assert chosen(browser) == "item 0"
    Browser.press(browser, "e")
    assert chosen(browser) == "search"
    assert text(browser, "#detail") =~ "tool: no <index> there"
    Browser.press(browser, ["e", "e", "e"])
    assert chosen(browser) == "search"
    Browser.press(browser, "E")
    assert chosen(browser) == "openai/gpt-4o"
    Browser.press(browser, [:home, :end])
    assert chosen(browser) == "item 2"
    Browser.press(browser, :enter)
    focused = "return document.activeElement.id"
    assert Browser.run(browser, focused) == "detail"
    Browser.press(browser, :escape)
    assert Browser.run(browser, focused) == "tree"
    Browser.press(browser, "?")
    assert Browser.run(browser, "return document.querySelector('#help').open")
    Browser.press(browser, :escape)
    refute Browser.run(browser, "return document.querySelector('#help').open")

    Browser.press(browser, ["/", "c", "l", "a", "u", "d", "e", :enter])
    assert chosen(browser) == "anthropic/claude"
    assert text(browser, "#found") == "1 span found"
    assert length(rows(browser)) == 5

    width = "return document.querySelector('#span-4 .bar').getBoundingClientRect().width"
    before = Browser.run(browser, width)
    Browser.press(browser, "+")
    assert_in_delta Browser.run(browser, width), 2 * before, 3
    Browser.press(browser, "0")
    assert_in_delta Browser.run(browser, width), before, 1
  end

  test "kinds can be hidden, and what is in them stays", context do
    browser = open(context, trace())
    Browser.click(browser, ~s|.kind:nth-of-type(5)|)
    assert text(browser, ~s|.kind[aria-pressed="false"]|) == "module"
    assert [4, "search"] in rows(browser)
    refute Enum.any?(rows(browser), &match?([_level, "dspy." <> _module], &1))
  end

  test "is dark or light", context do
    browser = open(context, trace())

    colours =
      "const {color, backgroundColor} = getComputedStyle(document.body); return [color, backgroundColor]"

    first = Browser.run(browser, colours)
    Browser.click(browser, "#theme")
    second = Browser.run(browser, colours)

    for [text, ground] <- [first, second] do
      assert contrast(text, ground) > 7
    end

    assert first != second
  end

  # As the WCAG define it.
  defp contrast(one, other) do
    [light, dark] = [one, other] |> Enum.map(&luminance/1) |> Enum.sort(:desc)
    (light + 0.05) / (dark + 0.05)
  end

  defp luminance("rgb(" <> numbers) do
    [red, green, blue] =
      for [number] <- Regex.scan(~r/\d+/, numbers) do
        share = String.to_integer(number) / 255
        if share <= 0.04045, do: share / 12.92, else: :math.pow((share + 0.055) / 1.055, 2.4)
      end

    0.2126 * red + 0.7152 * green + 0.0722 * blue
  end

  test "10,000 spans are drawn as they come into view", context do
    modules = for item <- 1..3_333, do: item_of(item)
    tree = [{"call", nil, "execute_batch", 0, 9_000, %{}} | Enum.concat(modules)]
    browser = open(context, trace(tree))
    drawn = "return document.querySelectorAll('.row').length"
    assert Browser.run(browser, drawn) < 100
    assert length(rows(browser)) > 20
    Browser.click(browser, "#expand")
    assert Browser.run(browser, drawn) < 100

    assert [scrolls, most] =
             Browser.run(browser, """
             const tree = document.getElementById("tree")
             const most = []
             for (let top = 0; top < tree.scrollHeight; top += 4000) {
               tree.scrollTop = top
               tree.dispatchEvent(new Event("scroll"))
               most.push(document.querySelectorAll(".row").length)
             }
             return [most.length, Math.max(...most)]
             """)

    assert scrolls > 50 and most < 150
    Browser.press(browser, :end)
    assert chosen(browser) == "openai/m3333"
    Browser.press(browser, ["/", "m", "1", "7", "7", "7", :enter])
    assert chosen(browser) == "openai/m1777"
  end

  defp item_of(item) do
    first = 3 * (item - 1) + 1

    [
      {"item", 0, "item #{item - 1}", item, 900, %{"index" => item - 1}},
      {"module", first, "dspy.Predict", item, 800, %{}},
      {"model", first + 1, "openai/m#{item}", item, 700, %{"total_tokens" => 10, "cost" => 0.001}}
    ]
  end

  test "spans without a parent, in a circle, and none at all are shown as far as they can be",
       context do
    [call | rest] = trace().spans
    browser = open(context, %{trace() | spans: rest, dropped: 12})
    assert [[1, "queue"], [1, "python"] | _more] = rows(browser)
    assert text(browser, "#totals") =~ "12 spans"
    browser = open(context, %{trace() | spans: [%{call | "parent" => "s1"} | rest]})
    assert length(rows(browser)) == 14
    # From another program, whose JSON has null for what it does not know.
    bare = %{call | "kind" => "model", "attributes" => nil, "error" => nil}
    unpriced = %{"total_tokens" => 5, "cost" => nil}
    spans = [bare, %{bare | "id" => "m", "attributes" => unpriced}]
    browser = open(context, %{trace() | spans: spans})
    assert length(rows(browser)) == 2
    assert text(browser, "#totals") =~ "unknown"
    browser = open(context, %{trace() | spans: []})
    assert rows(browser) == []
    assert text(browser, "#tree") =~ "The trace has no spans."
  end
end
