// Tests the translation of gRPC requests to those of the core, and of the core's statuses to gRPC
// statuses.
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/calibration/calibration.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kascade/v1/error_details.pb.h"
#include "server/grpc/errors.h"
#include "server/grpc/translate_attention.h"
#include "server/grpc/translate_calibration.h"

namespace kascade::server {
namespace {

using ::testing::ElementsAre;

TEST(CalibrationOptionsOfARequest, FollowFamilyMakerAndPreset) {
  const ModelConfig model{.layers = 12, .context = 4096};
  const auto plain = read_calibration_options({}, model);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->selection, kUsualMassSelection);
  EXPECT_EQ(plain->planner, Planner::kMass);
  EXPECT_EQ(plain->anchors, 0);

  v1::CalibrateRequest request;
  request.set_family(v1::SELECTION_FAMILY_TILE);
  const auto tile = read_calibration_options(request, model);
  ASSERT_TRUE(tile.ok());
  EXPECT_EQ(tile->planner, Planner::kGreedy);
  EXPECT_EQ(tile->selection.query_tile, 16);
  EXPECT_EQ(tile->selection.top_k, 12);
  EXPECT_EQ(tile->greedy.threshold, 0.65);

  request.Clear();
  request.set_preset(v1::CALIBRATION_PRESET_AGGRESSIVE);
  request.set_top_k(11);
  const auto preset = read_calibration_options(request, model);
  ASSERT_TRUE(preset.ok());
  EXPECT_EQ(preset->selection.family, Family::kTile);
  EXPECT_EQ(preset->selection.top_k, 11);
  EXPECT_EQ(preset->greedy.threshold, 0.55);
  EXPECT_EQ(preset->greedy.max_reuse_dist, 5);

  EXPECT_EQ(preset->window_tokens, 512);
  EXPECT_FALSE(preset->long_window);

  request.set_window_tokens(300);
  EXPECT_EQ(read_calibration_options(request, model)->window_tokens, 300);
}

CalibrationOptions options_of(const v1::CalibrateRequest& request) {
  const auto options = read_calibration_options(request, {.layers = 12, .context = 4096});
  EXPECT_TRUE(options.ok()) << options.status();
  return options.value_or(CalibrationOptions{});
}

// The values of our users' documents.
TEST(CalibrationOptionsOfARequest, EachPresetHasItsValues) {
  const struct {
    v1::CalibrationPreset preset;
    double threshold;
    int32_t top_k, max_reuse_dist, tile, window;
  } presets[] = {{v1::CALIBRATION_PRESET_BALANCED, 0.65, 12, 4, 16, 512},
                 {v1::CALIBRATION_PRESET_CONSERVATIVE, 0.75, 16, 3, 16, 512},
                 {v1::CALIBRATION_PRESET_AGGRESSIVE, 0.55, 10, 5, 16, 512},
                 {v1::CALIBRATION_PRESET_LARGE_MODEL, 0.75, 8, 4, 16, 512},
                 {v1::CALIBRATION_PRESET_CPU_8B, 0.1, 8, 4, 16, 512},
                 {v1::CALIBRATION_PRESET_LONG, 0.65, 16, 4, 32, 2048}};
  EXPECT_EQ(std::ssize(presets) + 1, v1::CalibrationPreset_descriptor()->value_count());
  for (const auto& expected : presets) {
    v1::CalibrateRequest request;
    request.set_preset(expected.preset);
    const CalibrationOptions options = options_of(request);
    EXPECT_EQ(options.planner, Planner::kGreedy);
    EXPECT_EQ(options.selection,
              (SelectionSettings{
                  .family = Family::kTile, .query_tile = expected.tile, .top_k = expected.top_k}));
    EXPECT_EQ(options.greedy.threshold, expected.threshold);
    EXPECT_EQ(options.greedy.max_reuse_dist, expected.max_reuse_dist);
    EXPECT_EQ(options.window_tokens, expected.window);
    EXPECT_FALSE(options.long_window);
  }
}

TEST(CalibrationOptionsOfARequest, AnOptionBringsItsFamilyAndItsPlanner) {
  using Change = void (*)(v1::CalibrateRequest&);
  const struct {
    const char* what;
    Change change;
    Family family;
    Planner planner;
  } cases[] = {
      {"threshold", [](v1::CalibrateRequest& r) { r.set_threshold(0.5); }, Family::kTile,
       Planner::kGreedy},
      {"auto_threshold", [](v1::CalibrateRequest& r) { r.set_auto_threshold(true); }, Family::kTile,
       Planner::kGreedy},
      {"max_reuse_dist", [](v1::CalibrateRequest& r) { r.set_max_reuse_dist(3); }, Family::kTile,
       Planner::kGreedy},
      {"top_k", [](v1::CalibrateRequest& r) { r.set_top_k(8); }, Family::kTile, Planner::kGreedy},
      {"top_k and anchors", [](v1::CalibrateRequest& r) { r.set_top_k(8), r.set_anchors(4); },
       Family::kTile, Planner::kDynamicProgramming},
      {"top_k and maker",
       [](v1::CalibrateRequest& r) { r.set_top_k(8), r.set_maker(v1::SCHEDULE_MAKER_DP); },
       Family::kTile, Planner::kDynamicProgramming},
      {"ratio and threshold",
       [](v1::CalibrateRequest& r) { r.set_ratio(0.2), r.set_threshold(0.5); }, Family::kKascade,
       Planner::kGreedy},
      {"family and threshold",
       [](v1::CalibrateRequest& r) {
         r.set_family(v1::SELECTION_FAMILY_KASCADE), r.set_threshold(0.5);
       },
       Family::kKascade, Planner::kGreedy},
      {"ratio", [](v1::CalibrateRequest& r) { r.set_ratio(0.2); }, Family::kKascade,
       Planner::kDynamicProgramming},
      {"plan_weight",
       [](v1::CalibrateRequest& r) { r.set_plan_weight(v1::PLAN_WEIGHT_IMPORTANCE); },
       Family::kKascade, Planner::kDynamicProgramming},
      {"tile_size", [](v1::CalibrateRequest& r) { r.set_tile_size(16); }, Family::kKascade,
       Planner::kMass},
      {"tile_size and threshold",
       [](v1::CalibrateRequest& r) { r.set_tile_size(64), r.set_threshold(0.5); }, Family::kTile,
       Planner::kGreedy},
      {"no auto_threshold", [](v1::CalibrateRequest& r) { r.set_auto_threshold(false); },
       Family::kKascade, Planner::kMass},
  };
  for (const auto& [what, change, family, planner] : cases) {
    v1::CalibrateRequest request;
    change(request);
    const CalibrationOptions options = options_of(request);
    EXPECT_EQ(options.selection.family, family) << what;
    EXPECT_EQ(options.planner, planner) << what;
    EXPECT_TRUE(options.long_window) << what;
  }
}

TEST(CalibrationOptionsOfARequest, TextsAreJoinedAsIsAskedFor) {
  v1::CalibrateRequest request;
  EXPECT_EQ(options_of(request).join_texts, std::nullopt);
  request.set_join_texts(false);
  EXPECT_EQ(options_of(request).join_texts, false);
  request.set_join_texts(true);
  EXPECT_EQ(options_of(request).join_texts, true);
}

TEST(CalibrationOptionsOfARequest, TakeEachExperiment) {
  const ModelConfig model{.layers = 12, .context = 4096};
  v1::CalibrateRequest request;
  request.set_pooling(v1::SCORE_POOLING_MAX);
  request.set_all_heads(true);
  request.set_published_head_map_slip(true);
  request.set_decode_own_tile(false);
  request.set_sink_keys(4);
  request.set_min_keys(64);
  request.set_ratio(0.2);
  const auto options = read_calibration_options(request, model);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->selection, (SelectionSettings{.ratio = 0.2,
                                                   .min_keys = 64,
                                                   .decode_own_tile = false,
                                                   .sink_keys = 4,
                                                   .pooling = ScorePooling::kMax,
                                                   .all_heads = true}));
  EXPECT_TRUE(options->published_head_map_slip);
  EXPECT_EQ(options->layer_cost, LayerCost::kMeasured);
  request.set_plan_weight(v1::PLAN_WEIGHT_IMPORTANCE);
  EXPECT_EQ(read_calibration_options(request, model)->layer_cost, LayerCost::kImportance);
}

TEST(CalibrationOptionsOfARequest, AMassTakesThePlaceOfTheRatio) {
  v1::CalibrateRequest request;
  request.set_maker(v1::SCHEDULE_MAKER_DP);
  request.set_window_tokens(2048);
  EXPECT_FALSE(options_of(request).checks_long_windows);
  EXPECT_EQ(options_of(request).dense_below, 0);
  request.set_dense_below(700);
  EXPECT_EQ(options_of(request).dense_below, 700);
  request.set_mass(0.9);
  EXPECT_EQ(options_of(request).selection, (SelectionSettings{.mass = 0.9}));
  request.set_max_ratio(0.5);
  request.set_min_keys(64);
  EXPECT_EQ(options_of(request).selection,
            (SelectionSettings{.min_keys = 64, .mass = 0.9, .max_ratio = 0.5}));
  request.set_int4_keys(true);
  EXPECT_TRUE(options_of(request).selection.int4_keys);
}

TEST(CalibrationOptionsOfARequest, MakerMassHasDefaultsOfItsOwn) {
  v1::CalibrateRequest request;
  CalibrationOptions options = options_of(request);
  EXPECT_EQ(options.planner, Planner::kMass);
  EXPECT_TRUE(options.searches_mass);
  EXPECT_TRUE(options.checks_long_windows);
  EXPECT_EQ(options.selection,
            (SelectionSettings{.min_keys = 64, .mass = 0.95, .sink_keys = 4, .int4_keys = true}));
  EXPECT_EQ(options.dense_below, std::nullopt);  // is measured
  request.set_dense_below(0);
  EXPECT_EQ(options_of(request).dense_below, 0);
  request.set_mass(0.9);
  request.set_min_keys(32);
  request.set_sink_keys(0);
  request.set_int4_keys(false);
  options = options_of(request);
  EXPECT_FALSE(options.searches_mass);
  EXPECT_EQ(options.selection, (SelectionSettings{.min_keys = 32, .mass = 0.9}));
}

TEST(CalibrationOptionsOfARequest, RefusesAMassThatMakesNoSense) {
  const ModelConfig model{.layers = 12, .context = 4096};
  const struct {
    std::function<void(v1::CalibrateRequest&)> change;
    const char* message;
  } cases[] = {
      {[](v1::CalibrateRequest& r) { r.set_mass(0); }, "mass: must be in (0, 1], got 0"},
      {[](v1::CalibrateRequest& r) { r.set_mass(0.9), r.set_ratio(0.1); },
       "mass: does not go together with ratio"},
      {[](v1::CalibrateRequest& r) { r.set_maker(v1::SCHEDULE_MAKER_DP), r.set_max_ratio(0.5); },
       "max_ratio: is an option of mass; mass is not given"},
      {[](v1::CalibrateRequest& r) { r.set_mass(0.9), r.set_top_k(8); },
       "mass: is an option of family KASCADE; family is TILE, as top_k asks for it"},
      {[](v1::CalibrateRequest& r) {
         r.set_maker(v1::SCHEDULE_MAKER_MASS), r.set_family(v1::SELECTION_FAMILY_TILE);
       },
       "maker: MASS is for family KASCADE; family is TILE"},
      {[](v1::CalibrateRequest& r) { r.set_maker(v1::SCHEDULE_MAKER_MASS), r.set_ratio(0.1); },
       "ratio: does not go together with maker MASS"},
      {[](v1::CalibrateRequest& r) { r.set_maker(v1::SCHEDULE_MAKER_MASS), r.set_anchors(3); },
       "anchors: is an option of maker DP; maker is MASS"},
      {[](v1::CalibrateRequest& r) { r.set_maker(v1::SCHEDULE_MAKER_MASS), r.set_threshold(0.5); },
       "threshold: is an option of maker GREEDY"}};
  for (const auto& [change, message] : cases) {
    v1::CalibrateRequest request;
    change(request);
    const absl::Status status = read_calibration_options(request, model).status();
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(message));
  }
}

BaselineAttention baseline_of(const v1::AttentionOptions& in, int32_t layers) {
  const auto read = read_attention(in, layers, /*may_compare=*/false);
  EXPECT_TRUE(read.ok()) << read.status();
  if (!read.ok() || !read->attention) return {};
  const auto* baseline = std::get_if<BaselineAttention>(&*read->attention);
  EXPECT_NE(baseline, nullptr);
  return baseline != nullptr ? *baseline : BaselineAttention{};
}

TEST(BaselineOfARequest, HasThePublishedDefaults) {
  v1::AttentionOptions in;
  auto& asked = *in.mutable_baseline();
  asked.set_kind(v1::BASELINE_KIND_QUEST);
  EXPECT_EQ(baseline_of(in, 12), BaselineAttention::defaults(BaselineKind::kQuest));
  EXPECT_THAT(baseline_of(in, 1).dense_layers, ElementsAre(0));

  asked.mutable_dense_layers();  // none
  asked.set_page_size(8);
  asked.set_ratio(0.25);
  asked.set_min_keys(0);
  EXPECT_EQ(baseline_of(in, 12), (BaselineAttention{.kind = BaselineKind::kQuest,
                                                    .ratio = 0.25,
                                                    .min_keys = 0,
                                                    .page_size = 8,
                                                    .dense_layers = {}}));
  for (const int32_t layer : {7, 3, 7}) asked.mutable_dense_layers()->add_layers(layer);
  const v1::AttentionReport report =
      report_attention({}, baseline_of(in, 12), v1::ATTENTION_MODE_SPARSE);
  EXPECT_EQ(report.baseline().kind(), v1::BASELINE_KIND_QUEST);
  EXPECT_EQ(report.baseline().min_keys(), 0);
  EXPECT_TRUE(report.baseline().has_min_keys());
  EXPECT_FALSE(report.baseline().has_sink_keys());
  EXPECT_THAT(report.baseline().dense_layers().layers(), ElementsAre(3, 7));

  v1::AttentionOptions nearby;
  nearby.mutable_baseline()->set_kind(v1::BASELINE_KIND_WINDOW);
  nearby.mutable_baseline()->set_window(48);
  const BaselineAttention window = baseline_of(nearby, 12);
  EXPECT_EQ(window.window, 48);
  EXPECT_TRUE(window.dense_layers.empty());
  const v1::AttentionBaseline told =
      report_attention({}, window, v1::ATTENTION_MODE_SPARSE).baseline();
  EXPECT_EQ(told.kind(), v1::BASELINE_KIND_WINDOW);
  EXPECT_EQ(told.window(), 48);
  EXPECT_FALSE(told.has_ratio() || told.has_min_keys() || told.has_chunk());

  asked.set_kind(v1::BASELINE_KIND_STREAMING);
  asked.clear_page_size();
  EXPECT_EQ(baseline_of(in, 12).sink_keys, 4);
}

v1::ErrorInfo info_of(const grpc::Status& status) {
  v1::RpcStatus rpc;
  EXPECT_TRUE(rpc.ParseFromString(status.error_details()));
  v1::ErrorInfo info;
  for (const auto& detail : rpc.details()) {
    if (detail.type_url().ends_with("ErrorInfo")) info.ParseFromString(detail.value());
  }
  return info;
}

TEST(Errors, EveryCodeGetsAReason) {
  const std::pair<absl::Status, const char*> cases[] = {
      {absl::InvalidArgumentError("texts: too short"), "INVALID_FIELD"},
      {absl::ResourceExhaustedError("full"), "OVERLOADED"},
      {absl::UnavailableError("draining"), "DRAINING"},
      {absl::NotFoundError("x"), "NOT_FOUND"},
      {absl::CancelledError("x"), "CANCELLED"},
      {absl::DeadlineExceededError("x"), "DEADLINE"},
      {absl::UnimplementedError("x"), "UNIMPLEMENTED"},
      {absl::InternalError("x"), "INTERNAL"},
      {refuse(absl::StatusCode::kInternal, "x", {.reason = reason::kNonFinite}), "NON_FINITE"},
      {absl::FailedPreconditionError("cache: x"), "PRECONDITION"},
  };
  for (const auto& [status, reason] : cases) {
    const grpc::Status told = to_grpc(status);
    EXPECT_EQ(static_cast<int>(told.error_code()), static_cast<int>(status.code()));
    EXPECT_EQ(info_of(told).reason(), reason) << told.error_message();
    EXPECT_EQ(info_of(told).domain(), "kascade");
  }
  EXPECT_TRUE(to_grpc(absl::OkStatus()).ok());
}

TEST(Errors, FieldsGetTheirNamesOnTheWire) {
  constexpr FieldName kNames[] = {{"tokens[", "token_ids.ids["},
                                  {"tokens", "text"},
                                  {"attention.schedule.ratio", "attention.ratio"},
                                  {"attention.schedule", "attention.mode"},
                                  {"token", "token_id"}};
  const std::pair<const char*, const char*> cases[] = {
      {"tokens", "text"},
      {"tokens[3]", "token_ids.ids[3]"},
      {"inputs[1].tokens[0]", "inputs[1].token_ids.ids[0]"},
      {"attention.schedule.ratio", "attention.ratio"},
      {"attention.schedule", "attention.mode"},
      {"logit_bias[0].token", "logit_bias[0].token_id"},
      {"stop_tokens[0]", "stop_tokens[0]"}};
  for (const auto& [core, wire] : cases) {
    const absl::Status status = with_wire_field(invalid_field(core, "what: it is"), kNames);
    EXPECT_EQ(message_of(status), std::string(wire) + ": what: it is");
    EXPECT_EQ(refusal_of(status).value_or(Refusal{}).field, wire);
  }
}

TEST(Errors, WhatIsNotUtf8IsReplaced) {
  const std::string bytes = "a\xff\xc3z\xed\xa0\x80\xe2\x82\xac";
  EXPECT_EQ(to_grpc(absl::InternalError(bytes)).error_message(), "a??z???€");
  EXPECT_EQ(info_of(to_grpc(absl::InternalError(bytes))).reason(), "INTERNAL");
  EXPECT_EQ(to_grpc(invalid_field("f", "\xe2\x82")).error_message(), "f: ?");
}

TEST(Errors, ALongMessageIsCutAtACharacter) {
  std::string text = "x";
  while (text.size() < 5000) text += "ä";
  const grpc::Status told = to_grpc(absl::InternalError(text));
  EXPECT_LT(told.error_message().size(), 520u);
  EXPECT_LT(told.error_details().size(), 1200u);
  EXPECT_EQ(info_of(told).reason(), "INTERNAL");  // is UTF-8, else nothing would parse
}

}  // namespace
}  // namespace kascade::server
