// Holds every weight format to a bar of quality on a published model: SmolLM2-135M-Instruct, from
// the GGUF file whose blocks are Q4_1. docs/quality/formats.md has the figures over more text.
#include <map>

#include "engine/quality/comparison.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"
#include "tools/convert/convert.h"
#include "tools/convert/source.h"
#include "tools/format_report/format_report.h"

namespace kascade::format_report {
namespace {

constexpr char kModel[] = "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";

// Most mean KL(f32 ‖ format) in nats per token, over two windows of 512 tokens.
const std::map<WeightFormat, double> kMostKl = {{WeightFormat::kBF16, 0.001},
                                                {WeightFormat::kInt8, 0.005},
                                                {WeightFormat::kInt4, 0.20},
                                                {WeightFormat::kNative, 0.004}};
constexpr double kMostInt8NllRise = 0.004;  // nats per token, beside two standard errors

TEST(QualityBars, EveryFormatOfSmolLm2IsCloseToF32) {
  KASCADE_NEEDS_DATA(kModel);
  KASCADE_NEEDS_DATA("text/wikitext-2/wiki.test.raw");
  KASCADE_NEEDS_DATA("text/gutenberg/war-and-peace.2600.txt");
  const testing::TempDir dir;
  auto source = convert::open_source(testing::shared_data() / kModel, {});
  ASSERT_TRUE(source.ok()) << source.status();
  const auto converted =
      convert::convert(**source, kModel, dir / "model", {}, [](const convert::ConvertProgress&) {});
  ASSERT_TRUE(converted.ok()) << converted;
  // Lines near the beginnings of the texts: all others would only be tokenized.
  const auto text = [](const char* path) {
    const std::string all = testing::read_file(testing::shared_data() / path);
    const size_t begin = all.find('\n', 50'000);
    return all.substr(begin, all.find('\n', 60'000) - begin);
  };
  const auto report =
      measure_formats({.model = dir / "model",
                       .texts = {{"wikitext-2", text("text/wikitext-2/wiki.test.raw")},
                                 {"war and peace", text("text/gutenberg/war-and-peace.2600.txt")}},
                       .window_tokens = 512,
                       .windows_per_text = 1},
                      [](const ReportProgress&) {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->formats.size() + report->left_out.size(), kMostKl.size());
  for (const FormatResult& result : report->formats) {
    const std::string name(name_of(result.memory.format));
    EXPECT_EQ(result.all.sums.tokens, 2 * 511) << name;
    EXPECT_GT(mean_kl(result.all.sums), 0) << name;
    EXPECT_LE(mean_kl(result.all.sums), kMostKl.at(result.memory.format)) << name;
    const PairedDifference rise = nll_rise(result.all.sums);
    if (result.memory.format == WeightFormat::kInt8) {
      EXPECT_LE(rise.mean, kMostInt8NllRise + 2 * rise.error);
    }
  }
}

}  // namespace
}  // namespace kascade::format_report
