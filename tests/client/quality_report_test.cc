// Tests the parts of `kascade eval` that need no server: prompts, tables, figures and findings.
#include "client/eval/quality_report.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "client/commands/files.h"
#include "client/eval/figures.h"
#include "client/eval/findings.h"
#include "client/eval/pass_key.h"
#include "client/eval/variants.h"
#include "client/views/reports.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::client {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(DataTableTest, WritesCsvAndMarkdown) {
  DataTable table({{"group"}, {"row", "Row", true}, {"kl", "KL"}});
  table.add({"a", "one, \"two\"", "0.5"});
  table.add({"b", "x|y", ""});
  EXPECT_EQ(table.csv(), "group,row,kl\na,\"one, \"\"two\"\"\",0.5\nb,x|y,\n");
  EXPECT_EQ(table.markdown(), "| Row | KL |\n|---|--:|\n| one, \"two\" | 0.5 |\n| x\\|y |  |\n");
  EXPECT_EQ(table.markdown("b"), "| Row | KL |\n|---|--:|\n| x\\|y |  |\n");
}

// One token per character.
absl::StatusOr<std::vector<std::vector<int32_t>>> encode_bytes(
    const std::vector<std::string>& texts) {
  std::vector<std::vector<int32_t>> encoded;
  for (const std::string& text : texts) encoded.emplace_back(text.begin(), text.end());
  return encoded;
}

std::string text_of(const std::vector<int32_t>& tokens) { return {tokens.begin(), tokens.end()}; }

std::vector<int32_t> filler_of(int32_t count) { return std::vector<int32_t>(count, '.'); }

TEST(PassKeyTest, PromptsHoldTheKeyOnceAndAskForIt) {
  const PassKeyOptions options{.cases = 40, .tokens = 900, .keys = 3, .seed = 5};
  const auto cases =
      draw_pass_keys(options, plain_wording(), filler_of(2000), {.before = {1}}, encode_bytes);
  ASSERT_TRUE(cases.ok()) << cases.status();
  ASSERT_EQ(cases->size(), 40u);
  for (const PassKeyCase& one : *cases) {
    EXPECT_EQ(one.prompt.size(), 900u);
    EXPECT_EQ(one.prompt.front(), 1);
    const std::string text = text_of(one.prompt);
    ASSERT_EQ(one.key.size(), 5u);
    const size_t at = text.find(one.key);
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(text.find(one.key, at + 1), std::string::npos);
    // The question names whom the statement named.
    const size_t name = text.rfind("for ", at) + 4;
    const std::string who = text.substr(name, text.find(' ', name) - name);
    EXPECT_TRUE(
        text.ends_with("What is the pass key for " + who + "? The pass key for " + who + " is"))
        << text.substr(text.size() - 80);
  }
}

TEST(PassKeyTest, SameSeedSamePrompts) {
  const PassKeyOptions options{.cases = 3, .tokens = 700, .seed = 9};
  PassKeyOptions other = options;
  other.seed = 10;
  const auto a = draw_pass_keys(options, plain_wording(), filler_of(900), {}, encode_bytes);
  const auto b = draw_pass_keys(options, plain_wording(), filler_of(900), {}, encode_bytes);
  const auto c = draw_pass_keys(other, plain_wording(), filler_of(900), {}, encode_bytes);
  EXPECT_EQ((*a)[2].prompt, (*b)[2].prompt);
  EXPECT_NE((*a)[2].prompt, (*c)[2].prompt);
}

TEST(PassKeyTest, TheKeyStandsWhereItShould) {
  for (const double depth : {0.0, 0.25, 0.9}) {
    const PassKeyOptions options{.cases = 10, .tokens = 4000, .keys = 4, .depth = depth, .seed = 2};
    const auto cases = draw_pass_keys(options, plain_wording(), filler_of(5000), {}, encode_bytes);
    for (const PassKeyCase& one : *cases) {
      const auto at = static_cast<double>(text_of(one.prompt).find(one.key));
      EXPECT_NEAR(at / 4000, depth, 0.08) << one.key;
    }
  }
}

TEST(PassKeyTest, TellsWhenTheTextIsTooShort) {
  const auto cases =
      draw_pass_keys({.tokens = 4000}, plain_wording(), filler_of(100), {}, encode_bytes);
  EXPECT_THAT(std::string(cases.status().message()), HasSubstr("there are 100"));
}

// Of 104 tokens with that mean: what is hard for all rows is 300 times the rows' own noise. Between
// two with other noise the mean difference has a standard error of 0.0014.
std::vector<float> tokens_with(double kl, int32_t noise) {
  std::vector<float> values;
  for (int32_t i = 0; i < 104; ++i) {
    const double shared = i % 2 == 0 ? 3 : -3, own = (i >> noise) % 2 == 0 ? 0.01 : -0.01;
    values.push_back(static_cast<float>(kl + shared + own));
  }
  return values;
}

QualityRow row_of(const std::string& group, const std::string& label, double bytes, double kl) {
  const bool is_compared = group == "equal bytes" || label.starts_with("dp like");
  return {.group = group,
          .label = label,
          .anchors = 4,
          .reuse_layers_ratio = 0.5,
          .kv_bytes_per_token = bytes,
          .dense_kv_bytes_per_token = 1000,
          .windows = {{.window = 4096,
                       .tokens = 8191,
                       .dense_perplexity = 40,
                       .mean_kl = kl,
                       .mean_kl_error = 0.3,
                       .kl = tokens_with(kl, is_compared ? 1 : 2)}},
          .found = 9,
          .cases = 10};
}

QualityResults results() {
  QualityResults results;
  results.rows = {row_of("kascade", "automatic", 400, 0.01), row_of("kascade", "small", 200, 0.05),
                  row_of("baseline", "quest", 400, 0.02), row_of("baseline", "oracle", 300, 0.03),
                  row_of("baseline", "streaming", 100, 1)};
  results.recall = {{.tokens = 1024,
                     .keys = 3,
                     .depth = 0.25,
                     .cases = 20,
                     .dense_found = 20,
                     .sparse_found = 19,
                     .dense_only = 1},
                    {.tokens = 1024,
                     .keys = 3,
                     .depth = 0.75,
                     .cases = 20,
                     .dense_found = 20,
                     .sparse_found = 18,
                     .dense_only = 2}};
  return results;
}

TEST(QualityReportTest, SaysWhereABaselineWins) {
  QualityResults all = results();
  const auto add = [&](v1::BaselineKind kind, const std::string& compared, double kl) {
    QualityRow row =
        row_of("equal bytes", std::string(name_of(kind)) + " beside " + compared, 390, kl);
    row.baseline = kind;
    row.comparison_row = compared;
    all.rows.push_back(row);
  };
  add(v1::BASELINE_KIND_QUEST, "automatic", 0.02);
  add(v1::BASELINE_KIND_STREAMING, "automatic", 0.0115);  // paired error 0.0014
  add(v1::BASELINE_KIND_STREAMING, "small", 0.04);
  const auto findings = quality_findings(all);
  EXPECT_THAT(findings, Contains(AllOf(HasSubstr("quest: KL 0.0200"),
                                       HasSubstr("Kascade at 40.0 %, automatic: KL 0.0100"),
                                       HasSubstr("Kascade is ahead by 0.0100 ± 0.0014"))));
  EXPECT_THAT(findings, Contains(AllOf(HasSubstr("streaming: KL 0.0115"),
                                       HasSubstr("No difference beyond the error (+0.0015"))));
  EXPECT_THAT(findings, Contains(AllOf(HasSubstr("Kascade at 20.0 %, small"),
                                       HasSubstr("**The baseline wins**"))));
  EXPECT_THAT(findings, Contains("Pass keys in 1024 tokens: 40/40 found dense, 37/40 sparse. Dense "
                                 "less sparse: +7.5 points, p = 0.25 (two-sided sign test)."));
}

TEST(QualityReportTest, PassKeysAreComparedToo) {
  QualityResults all = results();
  const auto add = [&](const std::string& compared, int32_t found) {
    QualityRow row = row_of("equal bytes", "quest beside " + compared, 390, 0.01);
    row.baseline = v1::BASELINE_KIND_QUEST;
    row.comparison_row = compared;
    row.found = found;
    all.rows.push_back(row);
  };
  add("automatic", 3);  // pass keys found of 10; the comparison rows find 9 and 2
  all.rows[1].found = 2;
  add("small", 9);
  const auto findings = quality_findings(all);
  EXPECT_THAT(findings, Contains(AllOf(HasSubstr("3/10 pass keys. Kascade"),
                                       HasSubstr("By pass keys Kascade is ahead."))));
  EXPECT_THAT(findings, Contains(AllOf(HasSubstr("2/10 pass keys. "),
                                       HasSubstr("By pass keys **the baseline wins**."))));
  all.rows.back().found = 4;
  EXPECT_THAT(quality_findings(all),
              Contains(AllOf(HasSubstr("4/10 pass keys. "), Not(HasSubstr("By pass keys")))));
}

TEST(QualityReportTest, TellsWhatABaselineCannotBeComparedWith) {
  QualityResults all = results();
  for (QualityRow& row : all.rows) {
    row.ratio = 0.1;
    if (row.label == "quest") row.baseline = v1::BASELINE_KIND_QUEST;
  }
  EXPECT_THAT(quality_findings(all),
              Contains("Nothing of quest beside 20.0 % of the bytes (small): as measured it reads "
                       "40.0 to 40.0 %."));
}

TEST(QualityReportTest, SaysThatNothingPassed) {
  QualityResults all = results();
  all.rows.front().passed = false;
  EXPECT_THAT(quality_findings(all).front(), HasSubstr("none passed the quality check"));
  all.rows.front().passed = true;
  EXPECT_THAT(quality_findings(all).front(), HasSubstr("(passed its quality check"));
}

TEST(QualityReportTest, TellsWhatTheQualityCheckFound) {
  QualityResults all = results();
  all.rows.front().passed = true;
  all.rows.front().quality_check_change = 0.714;
  all.rows.front().quality_check_error = 0.126;
  EXPECT_THAT(quality_findings(all).front(),
              HasSubstr("(passed its quality check at +0.71 ± 0.13 %; of "));
  EXPECT_THAT(quality_table(all).csv(), HasSubstr(",+0.71,0.13,0.5000,"));
}

TEST(QualityReportTest, TellsOfAllTexts) {
  QualityResults all = results();
  EXPECT_THAT(quality_findings(all), Not(Contains(HasSubstr("more of each text"))));
  const auto add = [&](const char* label, double change) {
    all.rows.push_back(row_of("domain", label, 400, 0.01));
    all.rows.back().windows.back().change_percent = change;
    all.rows.back().windows.back().change_error = 0.126;
  };
  add("a.txt, calibrated on the one text", 1.5);
  add("b.txt, calibrated on the one text", -0.25);
  add("a.txt, calibrated on texts of all kinds", 2);
  EXPECT_THAT(quality_findings(all),
              AllOf(Contains("The automatic schedule on more of each text: a.txt +1.50 ± 0.13 % "
                             "(8191 tokens), b.txt -0.25 ± 0.13 % (8191 tokens)."),
                    Contains("Calibrated on texts of all kinds instead (4 layers select, 1 attend "
                             "to all, 40.0 % of the bytes): a.txt +2.00 ± 0.13 % (8191 tokens).")));
  all.rows.back().passed = false;
  EXPECT_THAT(quality_findings(all),
              Contains(HasSubstr("(**none passed the quality check**, the best: 4")));
}

// Of those that are no worse beyond the error, 0.0014, the one that reads least.
TEST(QualityReportTest, TellsWhatReadsLessWithoutMoreLoss) {
  QualityResults all = results();
  const auto told = HasSubstr("Read least");
  EXPECT_THAT(quality_findings(all), Not(Contains(told)));  // "small" loses more
  all.rows.push_back(row_of("kascade", "close", 300, 0.0115));
  all.rows.back().windows.back().kl = tokens_with(0.0115, 1);
  all.rows.push_back(row_of("kascade", "closer", 350, 0.005));
  all.rows.push_back(row_of("kascade", "best", 400, 0.001));
  EXPECT_THAT(quality_findings(all),
              Contains(AllOf(told, HasSubstr("): close, 30.0 % of the bytes: KL 0.0115"))));
}

TEST(QualityReportTest, SaysThatRowsAreMissing) {
  QualityResults all = results();
  const auto page = [&] {
    for (ReportFile& file : quality_report({}, all, "kascade eval")) {
      if (file.name == "README.md") return file.content;
    }
    return std::string();
  };
  EXPECT_THAT(page(), AllOf(HasSubstr("kascade eval"), Not(HasSubstr("INCOMPLETE"))));
  all.broken_off = "the server went away";
  EXPECT_THAT(page(), HasSubstr("**INCOMPLETE**, 5 rows: the server went away"));
}

// Its other dense layers put it beside the line of as many selecting layers.
TEST(QualityReportTest, TheAutomaticScheduleHasAPointOfItsOwn) {
  QualityResults all = results();
  for (const ReportFile& file : quality_report({}, all, "")) {
    if (file.name != "quality.svg") continue;
    EXPECT_THAT(file.content, AllOf(HasSubstr(">automatic<"), HasSubstr(">4 selecting layers<")));
    return;
  }
  ADD_FAILURE() << "no figure";
}

TEST(QualityReportTest, ARatioBetweenMeasuredOnes) {
  std::vector<QualityRow> rows;
  for (const auto& [ratio, bytes] : {std::pair{0.1, 200.0}, {0.2, 300.0}, {0.5, 600.0}}) {
    rows.push_back(row_of("baseline", "streaming", bytes, 0.1));
    rows.back().baseline = v1::BASELINE_KIND_STREAMING;
    rows.back().ratio = ratio;
  }
  EXPECT_NEAR(ratio_reading(rows, v1::BASELINE_KIND_STREAMING, 0.25).value_or(0), 0.15, 1e-12);
  EXPECT_NEAR(ratio_reading(rows, v1::BASELINE_KIND_STREAMING, 0.4).value_or(0), 0.3, 1e-12);
  EXPECT_NEAR(ratio_reading(rows, v1::BASELINE_KIND_STREAMING, 0.6).value_or(0), 0.5, 1e-12);
  EXPECT_FALSE(ratio_reading(rows, v1::BASELINE_KIND_STREAMING, 0.19));
  EXPECT_FALSE(ratio_reading(rows, v1::BASELINE_KIND_STREAMING, 0.61));
  EXPECT_FALSE(ratio_reading(rows, v1::BASELINE_KIND_QUEST, 0.3));
}

TEST(QualityReportTest, GreedyIsComparedWithItsOwnRival) {
  QualityResults all = results();
  const auto add = [&](const std::string& greedy, double kl, double dp_kl) {
    all.rows.push_back(row_of("greedy", greedy, 500, kl));
    all.rows.push_back(row_of("greedy", "dp like " + greedy, 500, dp_kl));
    all.rows.back().comparison_row = greedy;
  };
  add("balanced", 0.5, 0.4);
  add("aggressive", 0.1, 0.2);
  add("threshold 0.5", 0.1, 0.1005);
  add("conservative", 0, 0);
  all.rows[all.rows.size() - 2].reuse_layers_ratio = 0;
  const auto findings = quality_findings(all);
  EXPECT_THAT(findings,
              Contains(AllOf(HasSubstr("balanced: KL 0.5000"), HasSubstr(": better by 0.1000"))));
  EXPECT_THAT(findings,
              Contains(AllOf(HasSubstr("aggressive: KL 0.1000"), HasSubstr("**worse**"))));
  EXPECT_THAT(findings, Contains(AllOf(HasSubstr("threshold 0.5: KL 0.1000"),
                                       HasSubstr("as good, within the error"))));
  EXPECT_THAT(findings, Contains(HasSubstr("conservative: no layer is similar enough")));
}

TEST(QualityReportTest, WindowsThatWereNotMeasuredAreEmptyCells) {
  const std::string csv = quality_table(results()).csv();
  const std::string first = csv.substr(csv.find("kascade,automatic"));
  EXPECT_THAT(first.substr(0, first.find('\n')),
              HasSubstr(",0.4000,,,,,,,,,,,,,+0.00,0.00,0.0100,0.3000"));
}

TEST(VariantsTest, TheCountOfRowsIsKnownBeforehand) {
  const VariantOptions options{.layers = 12, .context = 4096, .default_anchors = 5};
  const std::vector<Variant> others = other_variants(options);
  const auto greedy_rows = std::ranges::count(others, "greedy", &Variant::group);
  EXPECT_GT(greedy_rows, 3);
  // The default one, on two texts; schedules by dynamic programming beside the greedy ones, and two
  // baselines beside each of 10 %.
  EXPECT_EQ(expected_rows(options), others.size() + 2 + static_cast<size_t>(greedy_rows) + 2 * 7);
  for (const Variant& variant : others) {
    if (!variant.calibration || !variant.calibration->has_anchors()) continue;
    EXPECT_GE(variant.calibration->anchors(), 2) << variant.label;
    EXPECT_LE(variant.calibration->anchors(), 12) << variant.label;
  }
}

// What varies the default schedule has its dense layers; the grid of counts has layer 0 alone.
TEST(VariantsTest, VariedPlansKeepTheDefaultOnesDenseLayers) {
  const VariantOptions options{.layers = 12,
                               .context = 4096,
                               .default_anchors = 5,
                               .default_dense = {1, 7},
                               .others = {"other.txt"}};
  for (const Variant& variant : other_variants(options)) {
    if (!variant.calibration || variant.label.starts_with("automatic")) continue;
    if (variant.group == "domain") continue;  // an automatic one too
    const bool varied = variant.group == "experiment" || variant.group == "tile";
    const auto& dense = variant.calibration->dense_layers();
    EXPECT_EQ(std::vector<int32_t>(dense.begin(), dense.end()),
              varied ? std::vector<int32_t>({1, 7}) : std::vector<int32_t>())
        << variant.label;
    if (varied) {
      EXPECT_EQ(variant.calibration->anchors(), 5) << variant.label;
    }
  }
}

TEST(VariantsTest, AllTextsAreTriedUnderOnePlan) {
  const VariantOptions options{.layers = 12,
                               .context = 4096,
                               .default_anchors = 5,
                               .held_out = "book.txt",
                               .others = {"news.txt"},
                               .groups = {"domain"}};
  const auto check = [&](const std::vector<Variant>& variants, bool mixes) {
    ASSERT_EQ(variants.size(), 2u);
    for (int32_t text = -1; text < 1; ++text) {
      const Variant& variant = variants[static_cast<size_t>(text + 1)];
      EXPECT_EQ(variant.label, std::string(text < 0 ? "book.txt" : "news.txt") +
                                   ", calibrated on " +
                                   (mixes ? "texts of all kinds" : "the one text"));
      EXPECT_EQ(variant.text, text);
      EXPECT_TRUE(variant.is_long);
      EXPECT_EQ(variant.mixes_texts, mixes);
      // One calibration for all of these rows.
      EXPECT_EQ(variant.calibration.has_value(), mixes && text < 0);
    }
  };
  std::vector<Variant> first = default_variants(options);
  ASSERT_FALSE(first.empty());
  EXPECT_TRUE(first.front().is_default);
  first.erase(first.begin());
  check(first, false);
  check(other_variants(options), true);
  EXPECT_EQ(expected_rows(options), 5u);
}

// The automatic schedule with a stricter quality limit, with as many layers of each role as that
// limit requires.
TEST(VariantsTest, AStricterQualityCheckIsTriedToo) {
  const std::vector<Variant> others = other_variants({.layers = 12, .context = 4096});
  const auto strict =
      std::ranges::find(others, "automatic, quality check at 0.5 %", &Variant::label);
  ASSERT_NE(strict, others.end());
  EXPECT_EQ(strict->group, "experiment");
  v1::CalibrateRequest expected =
      default_variants({}).front().calibration.value_or(v1::CalibrateRequest());
  expected.set_max_degradation_percent(0.5);
  EXPECT_EQ(strict->calibration.value_or(v1::CalibrateRequest()).SerializeAsString(),
            expected.SerializeAsString());
}

TEST(VariantsTest, TilesFitTheContext) {
  for (const int32_t context : {512, 2048, 4096}) {
    VariantOptions options{
        .layers = 12, .context = context, .default_anchors = 5, .groups = {"tile"}};
    int32_t most = 0;
    for (const Variant& variant : other_variants(options)) {
      const auto request = variant.calibration.value_or(v1::CalibrateRequest());
      most = std::max(most, 16 * static_cast<int32_t>(request.top_k()));
    }
    EXPECT_GE(most, context / 3);
    EXPECT_LT(most, context);
  }
}

TEST(TextTest, IsCutBehindALineOrInFrontOfACharacter) {
  EXPECT_EQ(place_to_cut("one\ntwo\nthree", 9), 8u);
  EXPECT_EQ(place_to_cut("one\ntwo\nthree", 8), 8u);
  EXPECT_EQ(place_to_cut("a\nbcdefgh", 8), 8u);  // The line ends too early.
  EXPECT_EQ(place_to_cut("ab\u00e9\u00e9", 3), 2u);
  EXPECT_EQ(place_to_cut("ab\u00e9\u00e9", 4), 4u);
  EXPECT_EQ(place_to_cut("short", 9), 5u);
  EXPECT_EQ(place_to_cut("short", 0), 0u);
}

TEST(FiguresTest, ALineChartShowsWhatItCan) {
  const std::string svg = draw(LineChart{
      .title = "a < b & c",
      .series = {{"one", {{1, 0.1}, {10, 0.01}, {100, 0}}}, {"none", {}}, {"two", {{5, 5}}}}});
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  // Three points can be shown on logarithmic axes.
  size_t marks = 0;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) {
    ++marks;
  }
  EXPECT_EQ(marks, 3u);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

// As many as the report draws: up to 6 numbers of selecting layers, the default's and 3 baselines.
TEST(FiguresTest, EverySeriesHasAColourOfItsOwn) {
  LineChart chart;
  for (int i = 1; i <= 10; ++i) chart.series.push_back({std::to_string(i), {{1.0 * i, 1.0 * i}}});
  const std::string svg = draw(chart);
  std::set<std::string> colours;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) {
    const size_t fill = svg.find("fill=", at);
    colours.insert(svg.substr(fill, 14));
  }
  EXPECT_EQ(colours.size(), 10u);
}

TEST(FiguresTest, NothingToShowIsStillAFigure) {
  EXPECT_THAT(draw(LineChart{}), HasSubstr("</svg>"));
  EXPECT_THAT(draw(HeatMap{}), HasSubstr("</svg>"));
  EXPECT_THAT(draw(SchedulePicture{}), HasSubstr("</svg>"));
}

TEST(FiguresTest, AHeatMapLeavesUnknownCellsEmpty) {
  const std::string svg =
      draw(HeatMap{.columns = {"0", "1"}, .rows = {"0"}, .values = {{0.25, std::nan("")}}});
  EXPECT_THAT(svg, HasSubstr(">0.25<"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace kascade::client
