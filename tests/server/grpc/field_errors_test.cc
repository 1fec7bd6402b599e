// Tests invalid fields of every request over gRPC with a tiny model: status code, reason and the
// path of the field.
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/test_server.h"

namespace kascade::testing {
namespace {

class ServerErrorsTest : public ::testing::Test {
 protected:
  ServerErrorsTest() { write_tiny_model({.layers = 4, .context = 512}, dir_.path()); }

  TestServer& server() {
    if (!server_) server_ = std::make_unique<TestServer>(server_options(dir_.path()));
    return *server_;
  }
  static v1::GenerateRequest prompt(const std::string& text = "in the") {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_stopping()->set_max_new_tokens(1);
    return request;
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename Request>
struct Case {
  std::string what;
  Expected expected;
  std::function<void(Request&)> change;
};

const std::vector<Case<v1::GenerateRequest>> kGenerateCases{
    {"no prompt", bad("prompt"), [](v1::GenerateRequest& r) { r.clear_prompt(); }},
    {"empty without BOS", bad("text"),
     [](v1::GenerateRequest& r) { r.set_text(""), r.set_add_bos(false); }},
    {"no ids", bad("token_ids"), [](v1::GenerateRequest& r) { r.mutable_token_ids(); }},
    {"unknown id", bad("token_ids.ids[1]", "UNKNOWN_TOKEN"),
     [](v1::GenerateRequest& r) {
       r.mutable_token_ids()->add_ids(1);
       r.mutable_token_ids()->add_ids(264);
     }},
    {"negative id", bad("token_ids.ids[0]", "UNKNOWN_TOKEN"),
     [](v1::GenerateRequest& r) { r.mutable_token_ids()->add_ids(-1); }},
    {"too long", bad("text", "TOO_LONG"),
     [](v1::GenerateRequest& r) { r.set_text(std::string(512, 'x')); }},
    {"temperature NaN", bad("sampling.temperature"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(kNan); }},
    {"temperature < 0", bad("sampling.temperature"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(-0.1); }},
    {"temperature ∞", bad("sampling.temperature"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(kInfinity); }},
    {"top_k", bad("sampling.top_k"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_k(-1); }},
    {"top_p 0", bad("sampling.top_p"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_p(0); }},
    {"top_p 1.1", bad("sampling.top_p"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_p(1.1); }},
    {"min_p", bad("sampling.min_p"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_p(kNan); }},
    {"repetition_penalty", bad("sampling.repetition_penalty"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_repetition_penalty(0); }},
    {"presence_penalty", bad("sampling.presence_penalty"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_presence_penalty(2.5); }},
    {"frequency_penalty", bad("sampling.frequency_penalty"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->set_frequency_penalty(-2.5); }},
    {"bias id", bad("sampling.logit_bias[0].token_id", "UNKNOWN_TOKEN"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->add_logit_bias()->set_token_id(999); }},
    {"bias", bad("sampling.logit_bias[0].bias"),
     [](v1::GenerateRequest& r) { r.mutable_sampling()->add_logit_bias()->set_bias(101); }},
    {"bias twice", bad("sampling.logit_bias[1].token_id"),
     [](v1::GenerateRequest& r) {
       r.mutable_sampling()->add_logit_bias();
       r.mutable_sampling()->add_logit_bias();
     }},
    {"max_new_tokens 0", bad("stopping.max_new_tokens"),
     [](v1::GenerateRequest& r) { r.mutable_stopping()->set_max_new_tokens(0); }},
    {"max_new_tokens > context", bad("stopping.max_new_tokens"),
     [](v1::GenerateRequest& r) { r.mutable_stopping()->set_max_new_tokens(513); }},
    {"min_new_tokens", bad("stopping.min_new_tokens"),
     [](v1::GenerateRequest& r) { r.mutable_stopping()->set_min_new_tokens(2); }},
    {"empty stop string", bad("stopping.stop_strings[0]"),
     [](v1::GenerateRequest& r) { r.mutable_stopping()->add_stop_strings(""); }},
    {"long stop string", bad("stopping.stop_strings[0]"),
     [](v1::GenerateRequest& r) {
       r.mutable_stopping()->add_stop_strings(std::string(1025, 'x'));
     }},
    {"stop strings", bad("stopping.stop_strings"),
     [](v1::GenerateRequest& r) {
       for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop_strings("x");
     }},
    {"stop token", bad("stopping.stop_token_ids[0]", "UNKNOWN_TOKEN"),
     [](v1::GenerateRequest& r) { r.mutable_stopping()->add_stop_token_ids(264); }},
    {"top_logprobs", bad("response.top_logprobs"),
     [](v1::GenerateRequest& r) { r.mutable_response()->set_top_logprobs(21); }},
    {"compare", bad("attention.mode"),
     [](v1::GenerateRequest& r) { r.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE); }},
    {"unknown mode", bad("attention.mode"),
     [](v1::GenerateRequest& r) {
       r.mutable_attention()->set_mode(static_cast<v1::AttentionMode>(9));
     }},
    {"ratio with dense", bad("attention.ratio"),
     [](v1::GenerateRequest& r) {
       r.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
       r.mutable_attention()->set_ratio(0.5);
     }},
    {"ratio 0", bad("attention.ratio"),
     [](v1::GenerateRequest& r) { r.mutable_attention()->set_ratio(0); }},
    {"dense_below with dense", bad("attention.dense_below"),
     [](v1::GenerateRequest& r) {
       r.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
       r.mutable_attention()->set_dense_below(0);
     }},
    {"dense_below -1", bad("attention.dense_below"),
     [](v1::GenerateRequest& r) { r.mutable_attention()->set_dense_below(-1); }},
};

v1::AttentionBaseline& baseline(v1::GenerateRequest& r, v1::BaselineKind kind) {
  auto& baseline = *r.mutable_attention()->mutable_baseline();
  baseline.set_kind(kind);
  return baseline;
}

const std::vector<Case<v1::GenerateRequest>> kBaselineCases{
    {"no kind", bad("attention.baseline.kind"),
     [](v1::GenerateRequest& r) { r.mutable_attention()->mutable_baseline(); }},
    {"unknown kind", bad("attention.baseline.kind"),
     [](v1::GenerateRequest& r) { baseline(r, static_cast<v1::BaselineKind>(7)); }},
    {"with dense", bad("attention.baseline"),
     [](v1::GenerateRequest& r) {
       baseline(r, v1::BASELINE_KIND_ORACLE);
       r.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
     }},
    {"with compare", bad("attention.mode"),
     [](v1::GenerateRequest& r) {
       baseline(r, v1::BASELINE_KIND_ORACLE);
       r.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
     }},
    {"with ratio", bad("attention.ratio"),
     [](v1::GenerateRequest& r) {
       baseline(r, v1::BASELINE_KIND_ORACLE);
       r.mutable_attention()->set_ratio(0.5);
     }},
    {"with dense_below", bad("attention.dense_below"),
     [](v1::GenerateRequest& r) {
       baseline(r, v1::BASELINE_KIND_ORACLE);
       r.mutable_attention()->set_dense_below(0);
     }},
    {"ratio 0", bad("attention.baseline.ratio"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_ORACLE).set_ratio(0); }},
    {"ratio nan", bad("attention.baseline.ratio"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_QUEST).set_ratio(kNan); }},
    {"min_keys", bad("attention.baseline.min_keys"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_ORACLE).set_min_keys(-1); }},
    {"sink_keys", bad("attention.baseline.sink_keys"),
     [](v1::GenerateRequest& r) {
       baseline(r, v1::BASELINE_KIND_STREAMING).set_sink_keys(1 << 21);
     }},
    {"sink_keys of quest", bad("attention.baseline.sink_keys"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_QUEST).set_sink_keys(0); }},
    {"page_size of oracle", bad("attention.baseline.page_size"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_ORACLE).set_page_size(16); }},
    {"page_size", bad("attention.baseline.page_size"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_QUEST).set_page_size(129); }},
    {"window missing", bad("attention.baseline.window"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_WINDOW); }},
    {"window 0", bad("attention.baseline.window"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_WINDOW).set_window(0); }},
    {"chunk missing", bad("attention.baseline.chunk"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_CHUNK); }},
    {"chunk too large", bad("attention.baseline.chunk"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_CHUNK).set_chunk((1 << 20) + 1); }},
    {"window of quest", bad("attention.baseline.window"),
     [](v1::GenerateRequest& r) { baseline(r, v1::BASELINE_KIND_QUEST).set_window(16); }},
    {"chunk of window", bad("attention.baseline.chunk"),
     [](v1::GenerateRequest& r) {
       auto& window = baseline(r, v1::BASELINE_KIND_WINDOW);
       window.set_window(16);
       window.set_chunk(16);
     }},
    {"ratio of window", bad("attention.baseline.ratio"),
     [](v1::GenerateRequest& r) {
       auto& window = baseline(r, v1::BASELINE_KIND_WINDOW);
       window.set_window(16);
       window.set_ratio(0.1);
     }},
    {"min_keys of chunk", bad("attention.baseline.min_keys"),
     [](v1::GenerateRequest& r) {
       auto& chunk = baseline(r, v1::BASELINE_KIND_CHUNK);
       chunk.set_chunk(16);
       chunk.set_min_keys(16);
     }},
    {"dense layer", bad("attention.baseline.dense_layers.layers[0]"),
     [](v1::GenerateRequest& r) {
       baseline(r, v1::BASELINE_KIND_QUEST).mutable_dense_layers()->add_layers(99);
     }},
};

TEST_F(ServerErrorsTest, GenerateRefusesBadFields) {
  for (const auto& test : kGenerateCases) {
    v1::GenerateRequest request = prompt();
    test.change(request);
    const auto stream = generate(server(), request);
    EXPECT_TRUE(stream.messages.empty()) << test.what;
    expect(stream.status, test.expected, test.what);
  }
  EXPECT_EQ(server()->engine().stats().generated_tokens, 0);
}

TEST_F(ServerErrorsTest, GenerateRefusesBadBaselines) {
  for (const auto& test : kBaselineCases) {
    v1::GenerateRequest request = prompt();
    test.change(request);
    const auto stream = generate(server(), request);
    EXPECT_TRUE(stream.messages.empty()) << test.what;
    expect(stream.status, test.expected, test.what);
  }
}

TEST_F(ServerErrorsTest, MessagesTellLimitAndValue) {
  v1::GenerateRequest request = prompt();
  request.mutable_sampling()->set_temperature(-3);
  EXPECT_EQ(generate(server(), request).status.error_message(),
            "sampling.temperature: must be in [0, 1e+06], got -3");
  request = prompt();
  request.mutable_token_ids()->add_ids(300);
  EXPECT_EQ(generate(server(), request).status.error_message(),
            "token_ids.ids[0]: must be in [0, 264), got 300");
}

const std::vector<Case<v1::ScoreRequest>> kScoreCases{
    {"no inputs", bad("inputs"), [](v1::ScoreRequest& r) { r.clear_inputs(); }},
    {"too many", bad("inputs"),
     [](v1::ScoreRequest& r) {
       while (r.inputs_size() < 4097) r.add_inputs()->set_text("x");
     }},
    {"empty input", bad("inputs[1]"), [](v1::ScoreRequest& r) { r.add_inputs(); }},
    {"one token", bad("inputs[1]"),
     [](v1::ScoreRequest& r) { r.add_inputs()->mutable_token_ids()->add_ids(1); }},
    {"unknown id", bad("inputs[1].token_ids.ids[0]", "UNKNOWN_TOKEN"),
     [](v1::ScoreRequest& r) { r.add_inputs()->mutable_token_ids()->add_ids(5000); }},
    {"context with ids", bad("inputs[0].context"),
     [](v1::ScoreRequest& r) {
       r.mutable_inputs(0)->mutable_token_ids()->add_ids(1);
       r.mutable_inputs(0)->set_context("x");
     }},
    {"context_tokens with text", bad("inputs[0].context_tokens"),
     [](v1::ScoreRequest& r) { r.mutable_inputs(0)->set_context_tokens(1); }},
    {"all context", bad("inputs[0].context_tokens"),
     [](v1::ScoreRequest& r) {
       r.mutable_inputs(0)->mutable_token_ids()->add_ids(1);
       r.mutable_inputs(0)->set_context_tokens(1);
     }},
    {"whole too long", bad("inputs[0]", "TOO_LONG"),
     [](v1::ScoreRequest& r) {
       r.mutable_inputs(0)->set_text(std::string(600, 'x'));
       r.set_protocol(v1::SCORE_PROTOCOL_WHOLE);
     }},
    {"context too long", bad("inputs[0]", "TOO_LONG"),
     [](v1::ScoreRequest& r) { r.mutable_inputs(0)->set_context(std::string(600, 'x')); }},
    {"window 1", bad("window_tokens"), [](v1::ScoreRequest& r) { r.set_window_tokens(1); }},
    {"window > context", bad("window_tokens"),
     [](v1::ScoreRequest& r) { r.set_window_tokens(514); }},
    {"chunk of 2", bad("window_tokens"),
     [](v1::ScoreRequest& r) {
       r.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
       r.set_window_tokens(2);
     }},
    {"less than two chunks", bad("inputs[0]"),
     [](v1::ScoreRequest& r) {
       r.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
       r.mutable_inputs(0)->set_text(std::string(500, 'x'));
     }},
    {"context in chunks", bad("inputs[0]"),
     [](v1::ScoreRequest& r) {
       r.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
       r.set_window_tokens(3);
       r.mutable_inputs(0)->set_context("in the other");
     }},
    {"strided context too long", bad("inputs[0]", "TOO_LONG"),
     [](v1::ScoreRequest& r) {
       r.set_protocol(v1::SCORE_PROTOCOL_STRIDED);
       r.mutable_inputs(0)->set_context(std::string(600, 'x'));
     }},
    {"stride without a protocol", bad("stride_tokens"),
     [](v1::ScoreRequest& r) { r.set_stride_tokens(4); }},
    {"stride of chunks", bad("stride_tokens"),
     [](v1::ScoreRequest& r) {
       r.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
       r.set_stride_tokens(0);
     }},
    {"stride 0", bad("stride_tokens"),
     [](v1::ScoreRequest& r) {
       r.set_protocol(v1::SCORE_PROTOCOL_STRIDED);
       r.set_stride_tokens(0);
     }},
    {"stride = window", bad("stride_tokens"),
     [](v1::ScoreRequest& r) {
       r.set_protocol(v1::SCORE_PROTOCOL_STRIDED);
       r.set_window_tokens(8);
       r.set_stride_tokens(8);
     }},
    {"tile comparison of dense", bad("tile_comparison"),
     [](v1::ScoreRequest& r) { r.set_tile_comparison(true); }},
    {"unknown phase", bad("phase"),
     [](v1::ScoreRequest& r) { r.set_phase(static_cast<v1::SelectionPhase>(7)); }},
    {"unknown protocol", bad("protocol"),
     [](v1::ScoreRequest& r) { r.set_protocol(static_cast<v1::ScoreProtocol>(7)); }},
    {"top_logprobs", bad("response.top_logprobs"),
     [](v1::ScoreRequest& r) { r.mutable_response()->set_top_logprobs(-1); }},
};

v1::AttentionOptions& comparison(v1::ScoreRequest& r) {
  r.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  r.mutable_attention()->mutable_second()->mutable_dense();
  return *r.mutable_attention();
}

const std::vector<Case<v1::ScoreRequest>> kComparisonCases{
    {"first without compare", bad("attention.first"),
     [](v1::ScoreRequest& r) { r.mutable_attention()->mutable_first()->mutable_dense(); }},
    {"second of dense", bad("attention.second"),
     [](v1::ScoreRequest& r) { comparison(r).set_mode(v1::ATTENTION_MODE_DENSE); }},
    {"empty first", bad("attention.first"),
     [](v1::ScoreRequest& r) { comparison(r).mutable_first(); }},
    {"ratio beside second", bad("attention.ratio"),
     [](v1::ScoreRequest& r) { comparison(r).set_ratio(0.5); }},
    {"dense_below beside second", bad("attention.dense_below"),
     [](v1::ScoreRequest& r) { comparison(r).set_dense_below(8); }},
    {"dense_below of first", bad("attention.first.schedule.dense_below"),
     [](v1::ScoreRequest& r) {
       comparison(r).mutable_first()->mutable_schedule()->set_dense_below(-1);
     }},
    {"baseline beside second", bad("attention.baseline"),
     [](v1::ScoreRequest& r) {
       comparison(r).mutable_baseline()->set_kind(v1::BASELINE_KIND_ORACLE);
     }},
    {"ratio of first", bad("attention.first.schedule.ratio"),
     [](v1::ScoreRequest& r) { comparison(r).mutable_first()->mutable_schedule()->set_ratio(2); }},
    {"kind of first", bad("attention.first.baseline.kind"),
     [](v1::ScoreRequest& r) { comparison(r).mutable_first()->mutable_baseline(); }},
    {"min_keys of second", bad("attention.second.baseline.min_keys"),
     [](v1::ScoreRequest& r) {
       auto& baseline = *comparison(r).mutable_second()->mutable_baseline();
       baseline.set_kind(v1::BASELINE_KIND_QUEST);
       baseline.set_min_keys(-1);
     }},
    {"dense layer of second", bad("attention.second.baseline.dense_layers.layers[0]"),
     [](v1::ScoreRequest& r) {
       auto& baseline = *comparison(r).mutable_second()->mutable_baseline();
       baseline.set_kind(v1::BASELINE_KIND_QUEST);
       baseline.mutable_dense_layers()->add_layers(4);
     }},
    {"unknown schedule",
     {grpc::StatusCode::NOT_FOUND, "NOT_FOUND", ""},
     [](v1::ScoreRequest& r) {
       comparison(r).mutable_first()->mutable_schedule()->set_schedule_id("none");
     }},
    {"no active schedule",
     {grpc::StatusCode::FAILED_PRECONDITION, "NO_SCHEDULE", ""},
     [](v1::ScoreRequest& r) { comparison(r).mutable_first()->mutable_schedule(); }},
};

TEST_F(ServerErrorsTest, ScoreRefusesBadFields) {
  for (const auto& cases : {kScoreCases, kComparisonCases}) {
    for (const auto& test : cases) {
      v1::ScoreRequest request;
      request.add_inputs()->set_text("in the other");
      test.change(request);
      const auto stream = score(server(), request);
      EXPECT_TRUE(stream.messages.empty()) << test.what;
      expect(stream.status, test.expected, test.what);
    }
  }
}

TEST_F(ServerErrorsTest, ScoreTellsLimitAndValue) {
  v1::ScoreRequest request;
  request.add_inputs()->set_text(std::string(500, 'x'));
  request.set_protocol(v1::SCORE_PROTOCOL_CHUNK);
  EXPECT_EQ(score(server(), request).status.error_message(),
            "inputs[0]: 501 tokens; protocol CHUNK needs at least 1024, two windows");
  request.set_protocol(v1::SCORE_PROTOCOL_ROLLING);
  request.set_stride_tokens(4);
  EXPECT_EQ(score(server(), request).status.error_message(),
            "stride_tokens: goes with protocol STRIDED only, got 4");
  request.set_protocol(v1::SCORE_PROTOCOL_STRIDED);
  request.set_window_tokens(8);
  request.set_stride_tokens(8);
  EXPECT_EQ(score(server(), request).status.error_message(),
            "stride_tokens: must be in [1, 7], got 8");
}

void tile(v1::CalibrateRequest& r) { r.set_family(v1::SELECTION_FAMILY_TILE); }

const std::vector<Case<v1::CalibrateRequest>> kCalibrateCases{
    {"no texts", bad("texts"), [](v1::CalibrateRequest& r) { r.clear_texts(); }},
    {"too little text", bad("texts"), [](v1::CalibrateRequest&) {}},
    {"anchors of greedy", bad("anchors"),
     [](v1::CalibrateRequest& r) { r.set_maker(v1::SCHEDULE_MAKER_GREEDY), r.set_anchors(2); }},
    {"threshold of dp", bad("threshold"),
     [](v1::CalibrateRequest& r) { r.set_maker(v1::SCHEDULE_MAKER_DP), r.set_threshold(0.5); }},
    {"threshold beside anchors", bad("anchors"),
     [](v1::CalibrateRequest& r) { r.set_anchors(2), r.set_threshold(0.5); }},
    {"two thresholds", bad("auto_threshold"),
     [](v1::CalibrateRequest& r) { r.set_auto_threshold(true), r.set_threshold(0.5); }},
    {"auto_threshold of dp", bad("auto_threshold"),
     [](v1::CalibrateRequest& r) {
       r.set_maker(v1::SCHEDULE_MAKER_DP), r.set_auto_threshold(true);
     }},
    {"max_reuse_dist of dp", bad("max_reuse_dist"),
     [](v1::CalibrateRequest& r) { r.set_maker(v1::SCHEDULE_MAKER_DP), r.set_max_reuse_dist(3); }},
    {"no tokens of each text", bad("max_tokens_per_text"),
     [](v1::CalibrateRequest& r) { r.set_max_tokens_per_text(0); }},
    {"too many tokens of each text", bad("max_tokens_per_text"),
     [](v1::CalibrateRequest& r) { r.set_max_tokens_per_text((1 << 20) + 1); }},
    {"too many texts", bad("texts"),
     [](v1::CalibrateRequest& r) {
       while (r.texts_size() <= 65536) r.add_texts("x");
     }},
    {"too many held-out texts", bad("held_out_texts"),
     [](v1::CalibrateRequest& r) {
       while (r.held_out_texts_size() <= 65536) r.add_held_out_texts("x");
     }},
    {"too little held-out text", bad("held_out_texts"),
     [](v1::CalibrateRequest& r) { r.add_held_out_texts("in the other"); }},
    {"ratio of tile", bad("ratio"), [](v1::CalibrateRequest& r) { tile(r), r.set_ratio(0.5); }},
    {"min_keys of tile", bad("min_keys"),
     [](v1::CalibrateRequest& r) { tile(r), r.set_min_keys(5); }},
    {"sink_keys of tile", bad("sink_keys"),
     [](v1::CalibrateRequest& r) { tile(r), r.set_sink_keys(0); }},
    {"decode_own_tile of tile", bad("decode_own_tile"),
     [](v1::CalibrateRequest& r) { tile(r), r.set_decode_own_tile(true); }},
    {"pooling of tile", bad("pooling"),
     [](v1::CalibrateRequest& r) { tile(r), r.set_pooling(v1::SCORE_POOLING_MAX); }},
    {"unknown pooling", bad("pooling"),
     [](v1::CalibrateRequest& r) { r.set_pooling(static_cast<v1::ScorePooling>(5)); }},
    {"all_heads of tile", bad("all_heads"),
     [](v1::CalibrateRequest& r) { tile(r), r.set_all_heads(true); }},
    {"slip of greedy", bad("published_head_map_slip"),
     [](v1::CalibrateRequest& r) {
       r.set_maker(v1::SCHEDULE_MAKER_GREEDY), r.set_published_head_map_slip(true);
     }},
    {"plan_weight of greedy", bad("plan_weight"),
     [](v1::CalibrateRequest& r) {
       r.set_maker(v1::SCHEDULE_MAKER_GREEDY), r.set_plan_weight(v1::PLAN_WEIGHT_LOSS);
     }},
    {"unknown plan_weight", bad("plan_weight"),
     [](v1::CalibrateRequest& r) { r.set_plan_weight(static_cast<v1::PlanWeight>(3)); }},
    {"top_k of kascade", bad("top_k"),
     [](v1::CalibrateRequest& r) { r.set_family(v1::SELECTION_FAMILY_KASCADE), r.set_top_k(3); }},
    {"ratio beside top_k", bad("ratio"),
     [](v1::CalibrateRequest& r) { r.set_top_k(3), r.set_ratio(0.2); }},
    {"anchors beside a preset", bad("anchors"),
     [](v1::CalibrateRequest& r) { r.set_preset(v1::CALIBRATION_PRESET_LONG), r.set_anchors(2); }},
    {"min_recall alone", bad("min_recall"), [](v1::CalibrateRequest& r) { r.set_min_recall(0.5); }},
    {"preset of kascade", bad("preset"),
     [](v1::CalibrateRequest& r) {
       r.set_preset(v1::CALIBRATION_PRESET_LONG);
       r.set_family(v1::SELECTION_FAMILY_KASCADE);
     }},
    {"preset of dp", bad("preset"),
     [](v1::CalibrateRequest& r) {
       r.set_preset(v1::CALIBRATION_PRESET_LONG);
       r.set_maker(v1::SCHEDULE_MAKER_DP);
     }},
    {"unknown family", bad("family"),
     [](v1::CalibrateRequest& r) { r.set_family(static_cast<v1::SelectionFamily>(9)); }},
    {"unknown maker", bad("maker"),
     [](v1::CalibrateRequest& r) { r.set_maker(static_cast<v1::ScheduleMaker>(9)); }},
    {"unknown preset", bad("preset"),
     [](v1::CalibrateRequest& r) { r.set_preset(static_cast<v1::CalibrationPreset>(99)); }},
    {"anchors 0", bad("anchors"), [](v1::CalibrateRequest& r) { r.set_anchors(0); }},
    {"anchors > layers", bad("anchors"), [](v1::CalibrateRequest& r) { r.set_anchors(5); }},
    {"ratio", bad("ratio"), [](v1::CalibrateRequest& r) { r.set_ratio(1.5); }},
    {"min_keys", bad("min_keys"), [](v1::CalibrateRequest& r) { r.set_min_keys(0); }},
    {"tile_size", bad("tile_size"), [](v1::CalibrateRequest& r) { r.set_tile_size(24); }},
    {"sink_keys", bad("sink_keys"), [](v1::CalibrateRequest& r) { r.set_sink_keys(-1); }},
    {"top_k", bad("top_k"), [](v1::CalibrateRequest& r) { tile(r), r.set_top_k(0); }},
    {"threshold", bad("threshold"), [](v1::CalibrateRequest& r) { tile(r), r.set_threshold(1.5); }},
    {"dense layer", bad("dense_layers[0]"), [](v1::CalibrateRequest& r) { r.add_dense_layers(4); }},
    {"window", bad("window_tokens"), [](v1::CalibrateRequest& r) { r.set_window_tokens(63); }},
    {"degradation", bad("max_degradation_percent"),
     [](v1::CalibrateRequest& r) { r.set_max_degradation_percent(kNan); }},
};

TEST_F(ServerErrorsTest, CalibrateRefusesBadFields) {
  for (const auto& test : kCalibrateCases) {
    v1::CalibrateRequest request;
    request.add_texts("in the other corner");
    test.change(request);
    expect(calibrate(server(), request).status, test.expected, test.what);
  }
  v1::CalibrateRequest request;
  request.add_texts("x");
  request.set_threshold(0.5);
  request.set_maker(v1::SCHEDULE_MAKER_DP);
  EXPECT_EQ(calibrate(server(), request).status.error_message(),
            "threshold: is an option of maker GREEDY; maker is DP");
  request.clear_maker();
  request.set_anchors(2);
  EXPECT_EQ(calibrate(server(), request).status.error_message(),
            "anchors: is an option of maker DP; maker is GREEDY, as threshold asks for it");
}

TEST_F(ServerErrorsTest, TokenCallsRefuseBadFields) {
  const auto tokenize = [&](const v1::TokenizeRequest& request) {
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    return server().inference->Tokenize(&context, request, &response);
  };
  expect(tokenize({}), bad("texts"), "no texts");
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  request.add_token_ids(264);
  v1::DetokenizeResponse response;
  expect(server().inference->Detokenize(&context, request, &response),
         bad("token_ids[0]", "UNKNOWN_TOKEN"), "unknown id");
}

TEST_F(ServerErrorsTest, AddBosNeedsAModelWithABos) {
  server_.reset();
  nlohmann::json config = tiny_config({.layers = 4, .context = 512});
  config.erase("bos_token_id");
  write_file(dir_ / "config.json", config.dump());
  nlohmann::json tokenizer = tiny_tokenizer();
  tokenizer["post_processor"] = nullptr;
  write_file(dir_ / "tokenizer.json", tokenizer.dump());
  v1::GenerateRequest request = prompt();
  request.set_add_bos(true);
  expect(generate(server(), request).status, bad("add_bos"), "add_bos");
  expect(generate(server(), prompt("")).status, bad("text"), "no token at all");
}

}  // namespace
}  // namespace kascade::testing
