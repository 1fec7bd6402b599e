// Every refusal with its code and its machine-readable details, over real gRPC on a tiny model.
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/test_server.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;

struct Expected {
  grpc::StatusCode code;
  std::string reason;
  std::string field;  // of BadRequest; empty: none
};

void expect(const grpc::Status& status, const Expected& expected, const std::string& what) {
  SCOPED_TRACE(what + ": " + status.error_message());
  ASSERT_EQ(status.error_code(), expected.code);
  const Details details = details_of(status);
  EXPECT_EQ(details.reason, expected.reason);
  EXPECT_EQ(details.field, expected.field);
  const bool retry = expected.code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                     expected.code == grpc::StatusCode::UNAVAILABLE;
  EXPECT_EQ(details.retry, retry);
  const bool precondition = expected.code == grpc::StatusCode::FAILED_PRECONDITION;
  EXPECT_EQ(details.precondition, precondition ? expected.reason : "");
}

Expected bad(const std::string& field, const std::string& reason = "INVALID_FIELD") {
  return {grpc::StatusCode::INVALID_ARGUMENT, reason, field};
}

class ServerErrorsTest : public ::testing::Test {
 protected:
  ServerErrorsTest() { write_tiny_model({.layers = 4, .context = 512}, dir_.path()); }

  TestServer& server() {
    if (!server_) server_ = std::make_unique<TestServer>(server_options(dir_.path()));
    return *server_;
  }
  TestServer& start(const server::ServerOptions& options) {
    server_.reset();
    server_ = std::make_unique<TestServer>(options);
    return *server_;
  }
  std::shared_ptr<Schedule> schedule(Family family = Family::kKascade) {
    const SelectionRule rule{.family = family, .query_tile = 16, .min_keys = 8, .top_k = 2};
    auto schedule = make_schedule(server()->engine().model(), {1}, rule);
    schedule->model = server()->engine().identity();
    schedule->created_at = "2026-01-02T03:04:05Z";
    schedule->quality.passed = true;
    seal(*schedule);
    return schedule;
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

// ---- Bad fields
// ----------------------------------------------------------------------------------

template <typename Request>
struct Case {
  std::string what;
  Expected expected;
  std::function<void(Request&)> change;
};

TEST_F(ServerErrorsTest, GenerateRefusesBadFields) {
  using Request = v1::GenerateRequest;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<Case<Request>> cases{
      {"no prompt", bad("prompt"), [](Request& r) { r.clear_prompt(); }},
      {"empty without BOS", bad("text"), [](Request& r) { r.set_text(""), r.set_add_bos(false); }},
      {"no ids", bad("token_ids"), [](Request& r) { r.mutable_token_ids(); }},
      {"unknown id", bad("token_ids.ids[1]", "UNKNOWN_TOKEN"),
       [](Request& r) {
         r.mutable_token_ids()->add_ids(1);
         r.mutable_token_ids()->add_ids(264);
       }},
      {"negative id", bad("token_ids.ids[0]", "UNKNOWN_TOKEN"),
       [](Request& r) { r.mutable_token_ids()->add_ids(-1); }},
      {"too long", bad("text", "TOO_LONG"), [](Request& r) { r.set_text(std::string(512, 'x')); }},
      {"temperature NaN", bad("sampling.temperature"),
       [&](Request& r) { r.mutable_sampling()->set_temperature(nan); }},
      {"temperature < 0", bad("sampling.temperature"),
       [](Request& r) { r.mutable_sampling()->set_temperature(-0.1); }},
      {"temperature ∞", bad("sampling.temperature"),
       [&](Request& r) { r.mutable_sampling()->set_temperature(infinity); }},
      {"top_k", bad("sampling.top_k"), [](Request& r) { r.mutable_sampling()->set_top_k(-1); }},
      {"top_p 0", bad("sampling.top_p"), [](Request& r) { r.mutable_sampling()->set_top_p(0); }},
      {"top_p 1.1", bad("sampling.top_p"),
       [](Request& r) { r.mutable_sampling()->set_top_p(1.1); }},
      {"min_p", bad("sampling.min_p"), [&](Request& r) { r.mutable_sampling()->set_min_p(nan); }},
      {"repetition_penalty", bad("sampling.repetition_penalty"),
       [](Request& r) { r.mutable_sampling()->set_repetition_penalty(0); }},
      {"presence_penalty", bad("sampling.presence_penalty"),
       [](Request& r) { r.mutable_sampling()->set_presence_penalty(2.5); }},
      {"frequency_penalty", bad("sampling.frequency_penalty"),
       [](Request& r) { r.mutable_sampling()->set_frequency_penalty(-2.5); }},
      {"bias id", bad("sampling.logit_bias[0].token_id", "UNKNOWN_TOKEN"),
       [](Request& r) { r.mutable_sampling()->add_logit_bias()->set_token_id(999); }},
      {"bias", bad("sampling.logit_bias[0].bias"),
       [](Request& r) { r.mutable_sampling()->add_logit_bias()->set_bias(101); }},
      {"bias twice", bad("sampling.logit_bias[1].token_id"),
       [](Request& r) {
         r.mutable_sampling()->add_logit_bias();
         r.mutable_sampling()->add_logit_bias();
       }},
      {"max_new_tokens 0", bad("stopping.max_new_tokens"),
       [](Request& r) { r.mutable_stopping()->set_max_new_tokens(0); }},
      {"max_new_tokens > context", bad("stopping.max_new_tokens"),
       [](Request& r) { r.mutable_stopping()->set_max_new_tokens(513); }},
      {"min_new_tokens", bad("stopping.min_new_tokens"),
       [](Request& r) { r.mutable_stopping()->set_min_new_tokens(2); }},
      {"empty stop string", bad("stopping.stop_strings[0]"),
       [](Request& r) { r.mutable_stopping()->add_stop_strings(""); }},
      {"long stop string", bad("stopping.stop_strings[0]"),
       [](Request& r) { r.mutable_stopping()->add_stop_strings(std::string(1025, 'x')); }},
      {"stop strings", bad("stopping.stop_strings"),
       [](Request& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop_strings("x");
       }},
      {"stop token", bad("stopping.stop_token_ids[0]", "UNKNOWN_TOKEN"),
       [](Request& r) { r.mutable_stopping()->add_stop_token_ids(264); }},
      {"top_logprobs", bad("response.top_logprobs"),
       [](Request& r) { r.mutable_response()->set_top_logprobs(21); }},
      {"compare", bad("attention.mode"),
       [](Request& r) { r.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE); }},
      {"unknown mode", bad("attention.mode"),
       [](Request& r) { r.mutable_attention()->set_mode(static_cast<v1::AttentionMode>(9)); }},
      {"ratio with dense", bad("attention.ratio"),
       [](Request& r) {
         r.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
         r.mutable_attention()->set_ratio(0.5);
       }},
      {"ratio 0", bad("attention.ratio"), [](Request& r) { r.mutable_attention()->set_ratio(0); }},
  };
  for (const auto& test : cases) {
    Request request = prompt();
    test.change(request);
    const auto stream = generate(server(), request);
    EXPECT_TRUE(stream.messages.empty()) << test.what;
    expect(stream.status, test.expected, test.what);
  }
  EXPECT_EQ(server()->engine().stats().generated_tokens, 0);
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

TEST_F(ServerErrorsTest, ScoreRefusesBadFields) {
  using Request = v1::ScoreRequest;
  const std::vector<Case<Request>> cases{
      {"no inputs", bad("inputs"), [](Request& r) { r.clear_inputs(); }},
      {"too many", bad("inputs"),
       [](Request& r) {
         while (r.inputs_size() < 4097) r.add_inputs()->set_text("x");
       }},
      {"empty input", bad("inputs[1]"), [](Request& r) { r.add_inputs(); }},
      {"one token", bad("inputs[1]"),
       [](Request& r) { r.add_inputs()->mutable_token_ids()->add_ids(1); }},
      {"unknown id", bad("inputs[1].token_ids.ids[0]", "UNKNOWN_TOKEN"),
       [](Request& r) { r.add_inputs()->mutable_token_ids()->add_ids(5000); }},
      {"context with ids", bad("inputs[0].context"),
       [](Request& r) {
         r.mutable_inputs(0)->mutable_token_ids()->add_ids(1);
         r.mutable_inputs(0)->set_context("x");
       }},
      {"context_tokens with text", bad("inputs[0].context_tokens"),
       [](Request& r) { r.mutable_inputs(0)->set_context_tokens(1); }},
      {"all context", bad("inputs[0].context_tokens"),
       [](Request& r) {
         r.mutable_inputs(0)->mutable_token_ids()->add_ids(1);
         r.mutable_inputs(0)->set_context_tokens(1);
       }},
      {"whole too long", bad("inputs[0]", "TOO_LONG"),
       [](Request& r) {
         r.mutable_inputs(0)->set_text(std::string(600, 'x'));
         r.set_protocol(v1::SCORE_PROTOCOL_WHOLE);
       }},
      {"context too long", bad("inputs[0]", "TOO_LONG"),
       [](Request& r) { r.mutable_inputs(0)->set_context(std::string(600, 'x')); }},
      {"window 1", bad("window_tokens"), [](Request& r) { r.set_window_tokens(1); }},
      {"window > context", bad("window_tokens"), [](Request& r) { r.set_window_tokens(514); }},
      {"unknown phase", bad("phase"),
       [](Request& r) { r.set_phase(static_cast<v1::SelectionPhase>(7)); }},
      {"unknown protocol", bad("protocol"),
       [](Request& r) { r.set_protocol(static_cast<v1::ScoreProtocol>(7)); }},
      {"top_logprobs", bad("response.top_logprobs"),
       [](Request& r) { r.mutable_response()->set_top_logprobs(-1); }},
  };
  for (const auto& test : cases) {
    Request request;
    request.add_inputs()->set_text("in the other");
    test.change(request);
    const auto stream = score(server(), request);
    EXPECT_TRUE(stream.messages.empty()) << test.what;
    expect(stream.status, test.expected, test.what);
  }
}

TEST_F(ServerErrorsTest, CalibrateRefusesBadFields) {
  using Request = v1::CalibrateRequest;
  const auto bad_option = [](const std::string& field) { return bad(field); };
  const auto tile = [](Request& r) { r.set_family(v1::SELECTION_FAMILY_TILE); };
  const std::vector<Case<Request>> cases{
      {"no texts", bad("texts"), [](Request& r) { r.clear_texts(); }},
      {"too little text", bad("texts"), [](Request&) {}},
      {"anchors of greedy", bad_option("anchors"),
       [](Request& r) { r.set_maker(v1::SCHEDULE_MAKER_GREEDY), r.set_anchors(2); }},
      {"threshold of dp", bad_option("threshold"), [](Request& r) { r.set_threshold(0.5); }},
      {"max_reuse_dist of dp", bad_option("max_reuse_dist"),
       [](Request& r) { r.set_max_reuse_dist(3); }},
      {"ratio of tile", bad_option("ratio"), [&](Request& r) { tile(r), r.set_ratio(0.5); }},
      {"min_keys of tile", bad_option("min_keys"), [&](Request& r) { tile(r), r.set_min_keys(5); }},
      {"sink_keys of tile", bad_option("sink_keys"),
       [&](Request& r) { tile(r), r.set_sink_keys(0); }},
      {"decode_own_tile of tile", bad_option("decode_own_tile"),
       [&](Request& r) { tile(r), r.set_decode_own_tile(true); }},
      {"top_k of kascade", bad_option("top_k"), [](Request& r) { r.set_top_k(3); }},
      {"min_recall alone", bad_option("min_recall"), [](Request& r) { r.set_min_recall(0.5); }},
      {"preset of kascade", bad("preset"),
       [](Request& r) {
         r.set_preset(v1::CALIBRATION_PRESET_LONG);
         r.set_family(v1::SELECTION_FAMILY_KASCADE);
       }},
      {"preset of dp", bad("preset"),
       [](Request& r) {
         r.set_preset(v1::CALIBRATION_PRESET_LONG);
         r.set_maker(v1::SCHEDULE_MAKER_DP);
       }},
      {"unknown family", bad("family"),
       [](Request& r) { r.set_family(static_cast<v1::SelectionFamily>(9)); }},
      {"unknown maker", bad("maker"),
       [](Request& r) { r.set_maker(static_cast<v1::ScheduleMaker>(9)); }},
      {"unknown preset", bad("preset"),
       [](Request& r) { r.set_preset(static_cast<v1::CalibrationPreset>(99)); }},
      {"anchors 0", bad("anchors"), [](Request& r) { r.set_anchors(0); }},
      {"anchors > layers", bad("anchors"), [](Request& r) { r.set_anchors(5); }},
      {"ratio", bad("ratio"), [](Request& r) { r.set_ratio(1.5); }},
      {"min_keys", bad("min_keys"), [](Request& r) { r.set_min_keys(0); }},
      {"tile_size", bad("tile_size"), [](Request& r) { r.set_tile_size(24); }},
      {"sink_keys", bad("sink_keys"), [](Request& r) { r.set_sink_keys(-1); }},
      {"top_k", bad("top_k"), [&](Request& r) { tile(r), r.set_top_k(0); }},
      {"threshold", bad("threshold"), [&](Request& r) { tile(r), r.set_threshold(1.5); }},
      {"dense layer", bad("dense_layers[0]"), [](Request& r) { r.add_dense_layers(4); }},
      {"window", bad("window_tokens"), [](Request& r) { r.set_window_tokens(63); }},
      {"degradation", bad("max_degradation_percent"),
       [](Request& r) { r.set_max_degradation_percent(std::nan("")); }},
  };
  for (const auto& test : cases) {
    Request request;
    request.add_texts("in the other corner");
    test.change(request);
    expect(calibrate(server(), request).status, test.expected, test.what);
  }
  v1::CalibrateRequest request;
  request.add_texts("x");
  request.set_threshold(0.5);
  EXPECT_EQ(calibrate(server(), request).status.error_message(),
            "threshold: is an option of maker GREEDY; maker is DP");
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

// ---- Schedules
// -----------------------------------------------------------------------------------

TEST_F(ServerErrorsTest, SparseWithoutAScheduleNamesTheCureAndTheReason) {
  const Expected expected{grpc::StatusCode::FAILED_PRECONDITION, "NO_SCHEDULE", ""};
  v1::GenerateRequest request = prompt();
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_SPARSE);
  expect(generate(server(), request).status, expected, "sparse");
  request = prompt();
  request.mutable_attention()->set_ratio(0.5);
  expect(generate(server(), request).status, expected, "ratio");
  v1::ScoreRequest scoring;
  scoring.add_inputs()->set_text("in the");
  scoring.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  expect(score(server(), scoring).status, expected, "compare");
}

TEST_F(ServerErrorsTest, ARatioNeedsAScheduleThatHasOne) {
  ASSERT_TRUE(server()->engine().activate(schedule(Family::kTile)).ok());
  v1::GenerateRequest request = prompt();
  request.mutable_attention()->set_ratio(0.5);
  expect(generate(server(), request).status, bad("attention.ratio"), "family tile");
}

TEST_F(ServerErrorsTest, ActivateScheduleRefusesWhatDoesNotFit) {
  const auto activate = [&](const v1::ActivateScheduleRequest& request) {
    grpc::ClientContext context;
    v1::ActivateScheduleResponse response;
    return server().calibration->ActivateSchedule(&context, request, &response);
  };
  const auto activate_json = [&](const Schedule& schedule) {
    v1::ActivateScheduleRequest request;
    request.set_schedule_json(to_json(schedule));
    return activate(request);
  };
  v1::ActivateScheduleRequest request;
  expect(activate(request), bad("source"), "nothing");
  request.set_schedule_id("none");
  expect(activate(request), {grpc::StatusCode::NOT_FOUND, "NOT_FOUND", ""}, "unknown id");
  request.set_schedule_json("{");
  EXPECT_EQ(activate(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(details_of(activate(request)).field, HasSubstr("schedule_json"));

  Schedule other = *schedule();
  other.model.weights_digest = std::string(64, 'a');
  seal(other);
  const grpc::Status mismatch = activate_json(other);
  expect(mismatch, {grpc::StatusCode::FAILED_PRECONDITION, "SCHEDULE_MISMATCH", ""}, "other model");
  const Details details = details_of(mismatch);
  EXPECT_EQ(details.metadata.at("schedule_weights_digest"), std::string(64, 'a'));
  EXPECT_EQ(details.metadata.at("model_weights_digest"),
            server()->engine().identity().weights_digest);

  Schedule failed = *schedule();
  failed.quality.passed = false;
  seal(failed);
  expect(activate_json(failed), {grpc::StatusCode::FAILED_PRECONDITION, "SCHEDULE_NOT_PASSED", ""},
         "not passed");
  Schedule shape = *schedule();
  shape.layers.pop_back();
  seal(shape);
  EXPECT_EQ(activate_json(shape).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(server()->engine().active_schedule(), nullptr);
  EXPECT_TRUE(activate_json(*schedule()).ok());
  EXPECT_NE(server()->engine().active_schedule(), nullptr);
}

TEST_F(ServerErrorsTest, UnknownCalibrationsAreNotFound) {
  const Expected expected{grpc::StatusCode::NOT_FOUND, "NOT_FOUND", ""};
  {
    grpc::ClientContext context;
    v1::GetCalibrationResponse response;
    expect(server().calibration->GetCalibration(&context, {}, &response), expected, "get");
  }
  {
    grpc::ClientContext context;
    v1::CancelCalibrationResponse response;
    expect(server().calibration->CancelCalibration(&context, {}, &response), expected, "cancel");
  }
  {
    grpc::ClientContext context;
    auto reader = server().calibration->WatchCalibration(&context, {});
    v1::WatchCalibrationResponse response;
    EXPECT_FALSE(reader->Read(&response));
    expect(reader->Finish(), expected, "watch");
  }
  grpc::ClientContext context;
  v1::GetScheduleResponse response;
  expect(server().calibration->GetSchedule(&context, {}, &response), expected, "no active one");
}

// ---- Capacity
// ------------------------------------------------------------------------------------

// A Generate that runs until its client goes away.
class Occupant {
 public:
  explicit Occupant(TestServer& server) {
    v1::GenerateRequest request;
    request.set_text("in");
    request.mutable_stopping()->set_max_new_tokens(512);
    request.mutable_stopping()->set_ignore_eos(true);
    reader_ = server.inference->Generate(&context_, request);
  }
  bool read() { return reader_->Read(&message_); }
  grpc::Status leave() {
    context_.TryCancel();
    return end();
  }
  grpc::Status end() {
    while (read()) {
    }
    return reader_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  v1::GenerateResponse message_;
};

TEST_F(ServerErrorsTest, AFullQueueIsToldWithItsDepthAndARetryDelay) {
  auto options = server_options(dir_.path());
  options.engine.max_sequences = 1;
  options.engine.max_queue = 1;
  start(options);
  std::vector<std::unique_ptr<Occupant>> occupants;
  grpc::Status refused;
  // A tiny model is fast: keep adding until one is refused.
  ASSERT_TRUE(eventually([&] {
    for (int i = 0; i < 8; ++i) occupants.push_back(std::make_unique<Occupant>(server()));
    refused = generate(server(), prompt()).status;
    return !refused.ok();
  }));
  expect(refused, {grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", ""}, "queue full");
  EXPECT_EQ(details_of(refused).metadata.at("max_queue"), "1");
  for (auto& occupant : occupants) occupant->leave();
  EXPECT_TRUE(all_blocks_free(server()));
}

TEST_F(ServerErrorsTest, APromptThatTheCacheCanNeverHoldIsAPrecondition) {
  write_tiny_model({.layers = 4, .context = 4096}, dir_.path());
  auto options = server_options(dir_.path());
  options.engine.kv_memory_bytes = 32 * 4 * 2 * 2 * 8 * 4 * 12;  // 12 blocks in f32
  start(options);
  expect(generate(server(), prompt(std::string(3000, 'x'))).status,
         {grpc::StatusCode::FAILED_PRECONDITION, "CACHE_TOO_SMALL", ""}, "cache");
}

TEST_F(ServerErrorsTest, ALargerMessageThanAllowedIsRefused) {
  auto options = server_options(dir_.path());
  options.max_message_bytes = 1 << 16;
  start(options);
  EXPECT_EQ(generate(server(), prompt(std::string(1 << 17, 'x'))).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace kascade::testing
