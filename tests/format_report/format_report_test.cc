// Tests reports on tiny random models: agreement with the engine's own scores, the order of the
// formats, what is printed, and each refusal.
#include "tools/format_report/format_report.h"

#include <cmath>

#include "engine/quality/perplexity.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"
#include "tools/format_report/format_names.h"
#include "tools/format_report/report_view.h"

namespace kascade::format_report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempDir;

std::string letters(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += static_cast<char>('A' + i * i % 23);
  return text;
}

class FormatReportTest : public ::testing::Test {
 protected:
  FormatReportTest() {
    testing::write_tiny_model({.layers = 3, .hidden = 64, .intermediate = 96, .peaked = true},
                              dir_.path());
  }
  ReportOptions options() const {
    return {.model = dir_.path(),
            .texts = {{"one.txt", letters(299)}, {"two.txt", letters(400).substr(100)}},
            .formats = {WeightFormat::kInt8, WeightFormat::kInt4},
            .window_tokens = 300,
            .windows_per_text = 1};
  }
  static FormatReport measured(const ReportOptions& options) {
    auto report = measure_formats(options, [](const ReportProgress&) {});
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *std::move(report) : FormatReport{};
  }
  static std::string error_of(const ReportOptions& options, absl::StatusCode code) {
    const auto report = measure_formats(options, [](const ReportProgress&) {});
    EXPECT_EQ(report.status().code(), code) << report.status();
    return std::string(report.status().message());
  }

  TempDir dir_;
};

// −log p of the whole text in one request, with the weights and cache of a report's run.
double engine_nll(const TempDir& dir, const std::string& text, const char* weights) {
  EngineOptions options;
  options.model_directory = dir.path();
  options.weights = weights;
  options.backend = "cpu";
  options.max_sequences = 2;
  const auto engine = testing::make_engine(options);
  const auto tokens = engine->tokenizer().encode(text, {});
  testing::PendingReply pending;
  EXPECT_TRUE(engine->submit({.tokens = *tokens, .task = Score{}}, pending.sink()).ok());
  double nll = 0;
  const testing::Reply reply = pending.wait();
  for (const ScoredToken& token : reply.tokens) nll -= token.logprob;
  return nll;
}

TEST_F(FormatReportTest, AgreesWithTheEnginesScores) {
  ReportOptions options = this->options();
  // Of both texts, more than one chunk.
  int64_t done = 0, total = 0;
  const auto report = measure_formats(options, [&](const ReportProgress& progress) {
    EXPECT_GT(progress.tokens_done, done);
    done = progress.tokens_done;
    total = progress.tokens_total;
  });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(done, 4 * 299);
  EXPECT_EQ(total, done);
  ASSERT_EQ(report->formats.size(), 2u);
  const FormatResult& int8 = report->formats[0];
  ASSERT_EQ(int8.texts.size(), 2u);
  EXPECT_EQ(int8.texts[0].sums.tokens, 299);
  const std::string& text = options.texts[0].content;
  EXPECT_NEAR(int8.texts[0].sums.first_nll, engine_nll(dir_, text, "f32"), 0.01);
  EXPECT_NEAR(int8.texts[0].sums.second_nll, engine_nll(dir_, text, "int8"), 0.01);
  EXPECT_EQ(int8.all.sums.tokens, 598);
  EXPECT_DOUBLE_EQ(int8.all.sums.kl, int8.texts[0].sums.kl + int8.texts[1].sums.kl);
}

TEST_F(FormatReportTest, CoarserFormatsAreSmallerAndFurtherAway) {
  const FormatReport report = measured(options());
  const FormatResult& int8 = report.formats[0];
  const FormatResult& int4 = report.formats[1];
  EXPECT_GT(mean_kl(int8.all.sums), 0);
  EXPECT_GT(mean_kl(int4.all.sums), 4 * mean_kl(int8.all.sums));
  // The head of 264 rows is padded.
  EXPECT_GE(report.f32.bits_per_weight, 32);
  EXPECT_LT(report.f32.bits_per_weight, 34);
  EXPECT_EQ(report.f32.cache, DType::kF32);
  EXPECT_EQ(int8.memory.cache, DType::kBF16);
  EXPECT_LT(int8.memory.bytes, report.f32.bytes / 2);
  EXPECT_LT(int4.memory.bytes, int8.memory.bytes);
}

TEST_F(FormatReportTest, TakesItsDefaultsFromModelAndMachine) {
  ReportOptions options = this->options();
  options.formats.clear();
  options.texts = {{"one.txt", letters(2100)}};
  options.window_tokens = options.windows_per_text = 0;
  const FormatReport report = measured(options);
  EXPECT_EQ(report.window_tokens, 512);  // the context
  EXPECT_EQ(report.windows_per_text, 4);
  EXPECT_EQ(report.checkpoint_dtype, DType::kF32);
  std::vector<std::string> names;
  for (const FormatResult& result : report.formats) {
    names.emplace_back(name_of(result.memory.format));
  }
  if (report.left_out.empty()) {
    EXPECT_THAT(names, ElementsAre("bf16", "int8", "int4"));
  } else {
    EXPECT_THAT(names, ElementsAre("int8", "int4"));
    EXPECT_THAT(report.left_out[0], HasSubstr("bf16"));
  }
  EXPECT_THAT(default_formats(DType::kQ4_K).formats, ::testing::Contains(WeightFormat::kNative));
}

TEST_F(FormatReportTest, PrintsWhatItMeasured) {
  const FormatReport report = measured(options());
  const std::string text = report_text(report);
  EXPECT_THAT(text, HasSubstr("1 window of one.txt, two.txt, 300 tokens each"));
  EXPECT_THAT(text, HasSubstr("598 tokens compared"));
  const auto json = report_json(report);
  EXPECT_EQ(json["weights_digest"], report.weights_digest);
  ASSERT_EQ(json["formats"].size(), 2u);
  const auto& int8 = json["formats"][0];
  EXPECT_EQ(int8["weights"], "int8");
  EXPECT_EQ(int8["tokens"], 598);
  EXPECT_DOUBLE_EQ(int8["perplexity"].get<double>(), std::exp(int8["nll"].get<double>()));
  EXPECT_NEAR(int8["nll"].get<double>() - int8["f32_nll"].get<double>(),
              int8["nll_rise"].get<double>(), 1e-12);
  EXPECT_EQ(int8["by_text"][1]["text"], "two.txt");
  EXPECT_EQ(int8["by_text"][1]["tokens"], 299);
}

TEST_F(FormatReportTest, RefusesWhatItCannotMeasure) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ReportOptions options = this->options();
  options.window_tokens = 513;
  EXPECT_THAT(error_of(options, invalid),
              HasSubstr("window_tokens: must be in [2, 512] (the model's context), got 513"));
  options = this->options();
  options.windows_per_text = -1;
  EXPECT_THAT(error_of(options, invalid),
              HasSubstr("windows_per_text: must be in [1, 10000], got -1"));
  options = this->options();
  options.texts.clear();
  EXPECT_THAT(error_of(options, invalid), HasSubstr("texts: at least one"));
  options = this->options();
  options.model = dir_ / "nowhere";
  EXPECT_THAT(error_of(options, absl::StatusCode::kNotFound), HasSubstr("nowhere"));
  const std::atomic<bool> cancelled = true;
  options = this->options();
  options.cancelled = &cancelled;
  EXPECT_THAT(error_of(options, absl::StatusCode::kCancelled), HasSubstr("interrupted"));
}

TEST_F(FormatReportTest, StaysWithinASlidingWindow) {
  nlohmann::json config = nlohmann::json::parse(testing::read_file(dir_ / "config.json"));
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  config["sliding_window"] = 128;
  testing::write_file(dir_ / "config.json", config.dump());
  ReportOptions options = this->options();
  EXPECT_THAT(
      error_of(options, absl::StatusCode::kInvalidArgument),
      HasSubstr("window_tokens: must be in [2, 128] (the model's sliding window), got 300"));
  options.window_tokens = 0;
  EXPECT_EQ(measured(options).window_tokens, 128);
}

TEST_F(FormatReportTest, NamesLogitsThatAreNotFinite) {
  testing::TinyModel model{.layers = 3, .hidden = 64, .intermediate = 96};
  auto tensors = testing::tiny_tensors(model);
  for (testing::RawTensor& tensor : tensors) {
    if (tensor.name != "model.norm.weight") continue;
    const float infinite = INFINITY;
    tensor.bytes.replace(0, sizeof(infinite), reinterpret_cast<const char*>(&infinite),
                         sizeof(infinite));
  }
  testing::write_file(dir_ / "model.safetensors", testing::safetensors_bytes(tensors));
  EXPECT_THAT(error_of(options(), absl::StatusCode::kInternal),
              HasSubstr("one.txt: logits are not finite at token 0"));
}

TEST(FormatNames, AreReadOnceEach) {
  EXPECT_THAT(*formats_named("native,bf16"),
              ElementsAre(WeightFormat::kNative, WeightFormat::kBF16));
  EXPECT_THAT(formats_named("int8,f32").status().message(),
              HasSubstr("formats: each must be bf16, int8, int4 or native, found \"f32\""));
  EXPECT_THAT(formats_named("").status().message(), HasSubstr("found \"\""));
  EXPECT_THAT(formats_named("int8,int8").status().message(), HasSubstr("int8 is named twice"));
}

}  // namespace
}  // namespace kascade::format_report
