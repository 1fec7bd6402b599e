// What is told of a calibration: of presets, of why nothing reuses, of a suspect model.
#include "client/views/calibration_view.h"

#include <optional>
#include <string>
#include <utility>

#include "client/commands/option_names.h"
#include "client/views/schedule_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

// The layers are an anchor each after layer 0.
v1::CalibrationResult without_reuse() {
  v1::CalibrationResult result;
  auto& schedule = *result.mutable_schedule();
  for (int i = 0; i < 3; ++i) {
    auto& layer = *schedule.add_layers();
    layer.set_role(i == 0 ? v1::LAYER_ROLE_DENSE : v1::LAYER_ROLE_ANCHOR);
    layer.set_anchor(i);
    result.add_layers()->set_recall(0.9);
  }
  schedule.mutable_calibration()->set_maker("greedy");
  schedule.mutable_calibration()->set_threshold(0.65);
  schedule.mutable_quality()->set_keys_attended_ratio(1);
  auto& pair = *result.mutable_most_similar_pair();
  pair.set_layer(2);
  pair.set_anchor(1);
  pair.set_similarity(0.583);
  pair.set_threshold(0.58);
  return result;
}

TEST(NoReuse, TellsTheHighestSimilarityAndTheThresholdThatWouldDo) {
  const std::string text = no_reuse_text(without_reuse());
  EXPECT_THAT(text, HasSubstr("58.30 %, of layer 2 to layer 1, below the threshold 65.00 %"));
  EXPECT_THAT(text, HasSubstr("--threshold 0.58 lets it reuse, --threshold auto"));
  EXPECT_THAT(calibration_text(without_reuse()), HasSubstr("58.30 %, of layer 2 to layer 1"));
}

TEST(NoReuse, TellsThatNoLayerIsInReach) {
  v1::CalibrationResult result = without_reuse();
  result.clear_most_similar_pair();
  EXPECT_THAT(no_reuse_text(result), HasSubstr("layer 0 serves no other layer"));
}

TEST(NoReuse, OfDynamicProgrammingIsAMatterOfAnchors) {
  v1::CalibrationResult result = without_reuse();
  result.clear_most_similar_pair();
  result.mutable_schedule()->mutable_calibration()->clear_threshold();
  result.mutable_schedule()->mutable_calibration()->mutable_requested()->set_anchors(3);
  EXPECT_THAT(no_reuse_text(result), HasSubstr("fewer --anchors"));
}

TEST(NoReuse, IsNotToldWhereALayerReuses) {
  v1::CalibrationResult result = without_reuse();
  result.mutable_schedule()->set_reuse_layers_ratio(0.3);
  EXPECT_EQ(no_reuse_text(result), "");
}

TEST(SuspectModel, IsBlamedAndNotTheThreshold) {
  v1::CalibrationResult result = without_reuse();
  result.mutable_schedule()->mutable_quality()->set_suspect(true);
  result.add_suspect_causes("gate and up projections were swapped");
  EXPECT_EQ(no_reuse_text(result), "");
  const std::string warning = suspect_text(result);
  EXPECT_THAT(warning, HasSubstr("the model, its tokenizer or their conversion is at fault"));
  EXPECT_THAT(warning, HasSubstr("gate and up projections were swapped"));
  for (const std::string& text : {warning, calibration_text(result)}) {
    EXPECT_THAT(text, Not(HasSubstr("--threshold")));
    EXPECT_THAT(text, Not(HasSubstr("--anchors")));
    EXPECT_THAT(text, Not(HasSubstr("--max-reuse-dist")));
  }
}

TEST(CalibrationText, HasSpreadRecallAndTheAutomaticThreshold) {
  v1::CalibrationResult result = without_reuse();
  auto& layer = *result.mutable_schedule()->mutable_layers(2);
  layer.set_role(v1::LAYER_ROLE_REUSE);
  layer.set_anchor(1);
  layer.set_similarity(0.583);
  result.mutable_schedule()->set_reuse_layers_ratio(1.0 / 3);
  auto& spread = *result.mutable_layers(2)->mutable_similarity();
  spread.set_min(0.5);
  spread.set_median(0.6);
  spread.set_max(0.7);
  result.mutable_layers(2)->set_recall(0.8765);
  result.mutable_auto_threshold()->set_median_similarity(0.6);
  result.mutable_auto_threshold()->set_threshold(0.54);
  for (const double similarity : {0.2, 0.4, 0.9}) {
    result.add_similarity()->add_to_layers(1);
    result.mutable_similarity(result.similarity_size() - 1)->add_to_layers(similarity);
  }
  const std::string text = calibration_text(result);
  EXPECT_THAT(text, HasSubstr("58.30 %  50.00 %  60.00 %  70.00 %  87.65 %"));
  EXPECT_THAT(text, HasSubstr("0.9 × median similarity 0.6000 = 0.5400"));
  EXPECT_THAT(text, HasSubstr("min 20.00 %, median 40.00 %, max 90.00 %"));
  const Json json = measurement_json(result);
  EXPECT_EQ(json["layers_measured"][2]["similarity"]["median"], 0.6);
  EXPECT_TRUE(json["layers_measured"][1]["similarity"].is_null());
  EXPECT_EQ(json["auto_threshold"]["threshold"], 0.54);
  EXPECT_EQ(json["most_similar_pair"]["layer"], 2);
}

// The number of anchors counts layer 0 wherever it stands, and no layer is counted twice.
TEST(CalibrationText, HasOneThresholdAndOneCountOfAnchors) {
  v1::CalibrationResult result = without_reuse();
  auto& schedule = *result.mutable_schedule();
  schedule.mutable_layers(2)->set_role(v1::LAYER_ROLE_DENSE);
  schedule.mutable_calibration()->mutable_requested()->set_anchors(2);
  auto& quality = *schedule.mutable_quality();
  quality.set_degradation_percent(1.5);
  quality.set_degradation_percent_standard_error(0.1);
  quality.set_max_degradation_percent(1);
  quality.set_keys_attended_ratio(0.5);
  auto& candidate = *result.add_candidates();
  candidate.set_anchors(2);
  candidate.set_dense_layers(1);
  *candidate.mutable_quality() = quality;
  const std::string text = calibration_text(result);
  EXPECT_THAT(text, HasSubstr("Total: 0 REUSE, 3 ANCHOR/DENSE (2 anchors, layer 0 counted, and 1 "
                              "more dense)"));
  EXPECT_THAT(text, HasSubstr("2 anchors\n"));
  EXPECT_THAT(text, ContainsRegex("Anchors  More dense"));
  EXPECT_THAT(text, ContainsRegex("\n +2 +1 .*too much\n"));
  EXPECT_THAT(text, HasSubstr("Degradation        +1.5000 % ± 0.1000\n"));
  EXPECT_THAT(text, HasSubstr("NOT PASSED: perplexity at most 1.00 % worse"));
  for (const char* other : {"SUCCESS", "GOOD", "2 %", "5 %"})
    EXPECT_THAT(text, Not(HasSubstr(other)));
}

// Candidates that differ in nothing but their mass are told apart by it.
TEST(CalibrationText, NamesTheMassOfEachCandidate) {
  v1::CalibrationResult result = without_reuse();
  for (const double mass : {0.95, 0.9}) result.add_candidates()->set_mass(mass);
  const std::string text = calibration_text(result);
  EXPECT_THAT(text, ContainsRegex("More dense +Mass"));
  EXPECT_THAT(text, Not(HasSubstr("Predicted similarity")));
  EXPECT_THAT(text, ContainsRegex("\n +0 +0 +95.0 %.*\n +0 +0 +90.0 %"));
}

// A quality report of two kinds of text, whose perplexities pass.
v1::QualityReport panel() {
  v1::QualityReport quality;
  quality.set_checked_tokens(2048);
  quality.set_max_degradation_percent(1);
  quality.set_keys_attended_ratio(0.5);
  for (const auto& [name, degradation] : {std::pair{"prose", 0.2}, {"code", 0.7}}) {
    auto& kind = *quality.add_kinds();
    kind.set_kind(name);
    kind.set_windows(4);
    kind.set_tokens(8192);
    kind.set_degradation_percent(degradation);
    kind.set_degradation_percent_standard_error(0.25);
    kind.set_kl_99th_percentile(0.125);
    kind.set_passed(true);
  }
  quality.set_passed(true);
  return quality;
}

v1::RetrievalQuality pass_keys(int32_t tokens, int32_t dense, std::optional<int32_t> sparse) {
  v1::RetrievalQuality row;
  row.set_prompt_tokens(tokens);
  row.set_asked(20);
  row.set_dense_found(dense);
  row.set_p_value(0.03125);
  row.set_passed(!sparse || *sparse + 2 >= dense);
  if (!sparse) return row;
  row.set_sparse_found(*sparse);
  row.set_lost(dense - *sparse);
  return row;
}

v1::CalibrationResult result_of(const v1::QualityReport& quality) {
  v1::CalibrationResult result = without_reuse();
  result.mutable_schedule()->mutable_layers(2)->set_role(v1::LAYER_ROLE_REUSE);
  result.set_passed(quality.passed());
  *result.mutable_schedule()->mutable_quality() = quality;
  *result.add_candidates()->mutable_quality() = quality;
  return result;
}

TEST(PanelText, ShowsEachKindOfTextAndNamesTheWorst) {
  v1::QualityReport quality = panel();
  std::string text = calibration_text(result_of(quality));
  EXPECT_THAT(text, HasSubstr("Checked up to 2,048 tokens, by kind of text:\n"));
  EXPECT_THAT(text, ContainsRegex("\nprose +4 +8,192 .*\\+0.2000 % ± 0.2500 .*0.1250.*passed\n"));
  EXPECT_THAT(text, HasSubstr("(at worst, the perplexity of code changes by +0.7000 % ± 0.2500)"));
  EXPECT_THAT(text, Not(HasSubstr("Pass keys")));
  quality.mutable_kinds(1)->set_degradation_percent(0.9);
  quality.mutable_kinds(1)->set_passed(false);
  quality.set_passed(false);
  text = calibration_text(result_of(quality));
  EXPECT_THAT(text, ContainsRegex("\ncode .*too much\n"));
  EXPECT_THAT(text, HasSubstr("too much in code\n"));
  EXPECT_THAT(text, HasSubstr("was not reached (the perplexity of code changes by +0.9000 % ± "));
}

TEST(PanelText, ShowsThePassKeysOfEachLength) {
  v1::QualityReport quality = panel();
  *quality.add_retrieval() = pass_keys(1024, 19, 18);
  *quality.add_retrieval() = pass_keys(2048, 18, 13);
  *quality.add_retrieval() = pass_keys(4096, 7, std::nullopt);
  quality.set_passed(false);
  const std::string text = calibration_text(result_of(quality));
  EXPECT_THAT(text, ContainsRegex("\n +1,024 +20 +19 +18 +1 .*passed\n"));
  EXPECT_THAT(text, ContainsRegex("\n +2,048 +20 +18 +13 +5 +0.031 +too few\n"));
  EXPECT_THAT(text, ContainsRegex("\n +4,096 +20 +7 +- +- +- +not measurable"));
  EXPECT_THAT(text, HasSubstr("too few pass keys\n"));
  EXPECT_THAT(text, HasSubstr("NOT PASSED: as many pass keys as with dense attention was not "
                              "reached (in prompts of 2,048 tokens, dense attention finds 18 of 20 "
                              "pass keys and sparse attention 13)"));
}

TEST(PanelJson, HasAllRows) {
  v1::QualityReport quality = panel();
  *quality.add_retrieval() = pass_keys(0, 19, 18);
  *quality.add_retrieval() = pass_keys(4096, 7, std::nullopt);
  const Json json = quality_json(quality);
  EXPECT_EQ(json["checked_tokens"], 2048);
  EXPECT_EQ(json["kinds"][1]["kind"], "code");
  EXPECT_EQ(json["kinds"][1]["kl_99th_percentile"], 0.125);
  EXPECT_EQ(json["retrieval"][0]["sparse_found"], 18);
  EXPECT_TRUE(json["retrieval"][1]["sparse_found"].is_null());
}

TEST(Presets, AreListedWithTheirValues) {
  const std::string text = presets_text();
  EXPECT_EQ(std::ranges::count(text, '\n'), 6);
  EXPECT_THAT(text, HasSubstr("  aggressive    --threshold 0.55 --top-k 10 --max-reuse-dist 5 "
                              "--tile-size 16 --window-tokens 512\n"));
  EXPECT_THAT(text, HasSubstr("  cpu-8b        --threshold 0.1 "));
  EXPECT_THAT(text, HasSubstr("  large-model   --threshold 0.75 "));
  EXPECT_THAT(text, HasSubstr("  long          --threshold 0.65 --top-k 16 --max-reuse-dist 4 "
                              "--tile-size 32 --window-tokens 2048\n"));
}

TEST(OptionNames, StandForTheFieldsOfTheApi) {
  const auto named = [](const char* message) {
    return std::string(with_option_names(absl::InvalidArgumentError(message)).message());
  };
  EXPECT_EQ(named("top_k: is an option of family TILE; family is KASCADE"),
            "--top-k: is an option of --select tile; --select is kascade");
  EXPECT_EQ(named("anchors: is an option of maker DP; maker is GREEDY, as threshold asks for it"),
            "--anchors: is an option of --maker dp; --maker is greedy, as --threshold asks for it");
  EXPECT_EQ(named("ratio: must be in (0, 1], got 2"), "--ratio: must be in (0, 1], got 2");
  EXPECT_EQ(named("dense_layers[1]: must be in [0, 3], got 7"),
            "--dense-layers[1]: must be in [0, 3], got 7");
  EXPECT_EQ(named("held_out_texts: the texts have 3 tokens"),
            "--held-out: the texts have 3 tokens");
  EXPECT_EQ(named("texts: the longest text has 3 tokens"), "FILE: the longest text has 3 tokens");
  EXPECT_EQ(named("auto_threshold: does not go together with threshold"),
            "--threshold auto: does not go together with threshold");
  EXPECT_EQ(named("the ratio of anchors is fine"), "the ratio of anchors is fine");
}

// A figure that rounds to zero has no minus sign.
TEST(Print, ThereIsNoMinusZero) {
  EXPECT_EQ(signed_percent(-0.00004, 4), "+0.0000 %");
  EXPECT_EQ(signed_percent(-0.00006, 4), "-0.0001 %");
  EXPECT_EQ(signed_percent(0, 4), "+0.0000 %");
  EXPECT_EQ(signed_percent(-0.0), "+0.00 %");
  EXPECT_EQ(signed_fixed(1.5, 2), "+1.50");
  EXPECT_EQ(signed_fixed(-1.5, 0), "-2");
  EXPECT_EQ(fixed(-0.00004, 4), "0.0000");
  EXPECT_EQ(fixed(-0.4, 0), "0");
  EXPECT_EQ(fixed(-10.0, 1), "-10.0");
  EXPECT_EQ(percent(-0.000001), "0.00 %");
  EXPECT_EQ(percent(0.9663), "96.63 %");
}

}  // namespace
}  // namespace kascade::client
