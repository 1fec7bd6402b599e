// Tests calibration jobs over gRPC: a client follows a job, leaves it, finds it again, cancels it
// and activates its schedule.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/shared_data.h"
#include "tests/support/test_server.h"

namespace kascade::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ServerCalibrationTest : public ::testing::Test {
 protected:
  // A random model only guesses, so none of its schedules passes the quality check.
  ServerCalibrationTest() {
    write_tiny_model({.layers = 6, .context = 2048, .peaked = true}, dir_.path());
    server_ = std::make_unique<TestServer>(server_options(dir_.path()));
  }
  TestServer& server() { return *server_; }

  static std::string text(size_t bytes, const std::string& words) {
    std::string out;
    while (out.size() < bytes) out += words;
    return out;
  }
  // Done within a second or so.
  static v1::CalibrateRequest short_job() {
    v1::CalibrateRequest request;
    request.add_texts(text(16000, "in the other corner 123 "));
    request.set_window_tokens(256);
    request.set_anchors(2);
    request.set_min_keys(16);
    return request;
  }
  // Takes long enough to be cancelled while it runs, because every number of anchors goes through
  // the quality check.
  static v1::CalibrateRequest long_job() {
    v1::CalibrateRequest request;
    request.add_texts(text(400000, "the thin lines over the hill 4567 "));
    request.set_min_keys(16);
    return request;
  }
  using Reader = grpc::ClientReader<v1::CalibrateResponse>;
  // Starts a job and returns its id.
  std::string start(grpc::ClientContext& context, const v1::CalibrateRequest& request,
                    std::unique_ptr<Reader>& reader) {
    reader = server().calibration->Calibrate(&context, request);
    v1::CalibrateResponse first;
    EXPECT_TRUE(reader->Read(&first));
    EXPECT_TRUE(first.has_started());
    return first.started().calibration_id();
  }
  v1::Calibration get(const std::string& id) {
    grpc::ClientContext context;
    v1::GetCalibrationRequest request;
    request.set_calibration_id(id);
    v1::GetCalibrationResponse response;
    EXPECT_TRUE(server().calibration->GetCalibration(&context, request, &response).ok());
    return response.calibration();
  }
  v1::Calibration cancel(const std::string& id) {
    grpc::ClientContext context;
    v1::CancelCalibrationRequest request;
    request.set_calibration_id(id);
    v1::CancelCalibrationResponse response;
    EXPECT_TRUE(server().calibration->CancelCalibration(&context, request, &response).ok());
    return response.calibration();
  }
  Stream<v1::WatchCalibrationResponse> watch(const std::string& id) {
    Stream<v1::WatchCalibrationResponse> out;
    grpc::ClientContext context;
    v1::WatchCalibrationRequest request;
    request.set_calibration_id(id);
    auto reader = server().calibration->WatchCalibration(&context, request);
    for (v1::WatchCalibrationResponse message; reader->Read(&message);) {
      out.messages.push_back(message);
    }
    out.status = reader->Finish();
    return out;
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(ServerCalibrationTest, ExperimentsAreMadeAndTold) {
  v1::CalibrateRequest request = short_job();
  request.set_pooling(v1::SCORE_POOLING_MAX);
  request.set_all_heads(true);
  request.set_published_head_map_slip(true);
  request.set_decode_own_tile(false);
  const auto stream = calibrate(server(), request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const v1::Schedule& made = stream.messages.back().result().schedule();
  EXPECT_EQ(made.selection().pooling(), v1::SCORE_POOLING_MAX);
  EXPECT_TRUE(made.selection().all_heads());
  EXPECT_FALSE(made.selection().decode_own_tile());
  EXPECT_TRUE(made.calibration().published_head_map_slip());
  EXPECT_THAT(stream.messages.back().result().schedule_json(), HasSubstr("\"pooling\":\"max\""));
  // Another job than the plain one, though text and figures are the same.
  const auto plain = calibrate(server(), short_job());
  ASSERT_TRUE(plain.status.ok());
  EXPECT_FALSE(plain.messages.front().started().attached());
  EXPECT_EQ(plain.messages.back().result().schedule().selection().pooling(), v1::SCORE_POOLING_SUM);
}

TEST_F(ServerCalibrationTest, AJobIsFollowedToItsResult) {
  const auto stream = calibrate(server(), short_job());
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  ASSERT_GE(stream.messages.size(), 3u);
  const auto& started = stream.messages.front().started();
  EXPECT_FALSE(started.attached());
  EXPECT_GT(started.tokens(), 10000);
  EXPECT_EQ(started.data_digest().size(), 64u);
  for (size_t i = 1; i + 1 < stream.messages.size(); ++i) {
    EXPECT_TRUE(stream.messages[i].has_progress());
    const auto& progress = stream.messages[i].progress();
    EXPECT_LE(progress.tokens_done(), progress.tokens_total());
    // The rate is reported only after half a second.
    EXPECT_LE(progress.tokens_per_second() / 2, static_cast<double>(progress.tokens_done()));
    EXPECT_LE(progress.has_eta_seconds(), progress.tokens_per_second() > 0);
  }
  ASSERT_TRUE(stream.messages.back().has_result());
  const v1::CalibrationResult& result = stream.messages.back().result();
  EXPECT_EQ(result.schedule().layers_size(), 6);
  EXPECT_EQ(result.schedule().layers(0).role(), v1::LAYER_ROLE_DENSE);
  EXPECT_EQ(result.schedule().selection().min_keys(), 16);
  EXPECT_EQ(result.candidates_size(), 1);
  EXPECT_EQ(result.candidates(0).anchors(), 2);
  EXPECT_TRUE(result.schedule().quality().suspect());
  EXPECT_FALSE(result.passed());
  EXPECT_FALSE(result.activated());
  EXPECT_EQ(result.saved_file(), "");
  const auto parsed = parse_schedule(result.schedule_json());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->schedule_id, result.schedule().schedule_id());
  EXPECT_EQ(server()->engine().active_schedule(), nullptr);
  EXPECT_THAT(server()->metrics_text(),
              HasSubstr("kascade_calibrations_total{outcome=\"not_passed\"} 1"));

  const v1::Calibration job = get(started.calibration_id());
  EXPECT_EQ(job.state(), v1::CALIBRATION_STATE_SUCCEEDED);
  EXPECT_EQ(job.schedule_id(), result.schedule().schedule_id());
  EXPECT_EQ(job.result().schedule_json(), result.schedule_json());
  EXPECT_TRUE(all_blocks_free(server()));
}

// A random model is suspect: what is told blames the model, and no option of the calibration.
TEST_F(ServerCalibrationTest, ASuspectModelIsBlamedAndNotItsOptions) {
  v1::CalibrateRequest request;
  request.add_texts(text(16000, "in the other corner 123 "));
  request.set_window_tokens(256);
  request.set_top_k(4);
  request.set_threshold(1);
  const auto stream = calibrate(server(), request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const v1::CalibrationResult& result = stream.messages.back().result();
  ASSERT_TRUE(result.schedule().quality().suspect());
  EXPECT_EQ(result.schedule().reuse_layers_ratio(), 0);
  EXPECT_GT(result.suspect_causes_size(), 3);
  EXPECT_EQ(result.warning(), "");
  for (const std::string& cause : result.suspect_causes()) {
    EXPECT_THAT(cause, Not(HasSubstr("threshold")));
  }
  // Activation says nevertheless that nothing is saved.
  v1::ActivateScheduleRequest activation;
  activation.set_schedule_id(result.schedule().schedule_id());
  v1::ActivateScheduleResponse response;
  {
    grpc::ClientContext context;
    const auto status = server().calibration->ActivateSchedule(&context, activation, &response);
    EXPECT_THAT(status.error_message(), HasSubstr("the model, its tokenizer or their conversion"));
  }
  activation.set_force(true);
  grpc::ClientContext context;
  ASSERT_TRUE(server().calibration->ActivateSchedule(&context, activation, &response).ok());
  EXPECT_THAT(response.warning(), HasSubstr("saves nothing: no layer reuses"));
}

TEST_F(ServerCalibrationTest, EachTextHasOneKindOrNoneHas) {
  const auto refusal = [&](const v1::CalibrateRequest& request) {
    const grpc::Status status = calibrate(server(), request).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return status.error_message();
  };
  v1::CalibrateRequest request = short_job();
  request.add_kinds("prose");
  request.add_kinds("code");
  EXPECT_EQ(refusal(request), "kinds: must be as many as texts, which are 1, or none, got 2");
  request.mutable_kinds()->RemoveLast();
  request.set_kinds(0, std::string(65, 'k'));
  EXPECT_EQ(refusal(request), "kinds[0]: must have 1 to 64 bytes, has 65");
  request.set_kinds(0, "prose");
  request.add_held_out_kinds("prose");
  EXPECT_THAT(refusal(request), HasSubstr("held_out_kinds: must be as many as held_out_texts"));
}

TEST_F(ServerCalibrationTest, TheKindsOfTheTextsHaveRows) {
  v1::CalibrateRequest request = short_job();
  request.add_kinds("prose");
  const auto stream = calibrate(server(), request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const v1::QualityReport& quality = stream.messages.back().result().schedule().quality();
  ASSERT_EQ(quality.kinds_size(), 1);
  EXPECT_EQ(quality.kinds(0).kind(), "prose");
  EXPECT_EQ(quality.kinds(0).tokens(), quality.tokens());
  EXPECT_EQ(quality.checked_tokens(), 256);
  EXPECT_EQ(quality.retrieval_size(), 0);  // no schedule of a random model comes so far
}

TEST_F(ServerCalibrationTest, LayersAreToldWithRecallAndSpread) {
  const auto stream = calibrate(server(), short_job());
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const v1::CalibrationResult& result = stream.messages.back().result();
  ASSERT_EQ(result.layers_size(), 6);
  for (int32_t i = 0; i < 6; ++i) {
    const v1::LayerPlan& plan = result.schedule().layers(i);
    const v1::MeasuredLayer& layer = result.layers(i);
    EXPECT_GT(layer.recall(), 0);
    EXPECT_LE(layer.recall(), 1);
    ASSERT_EQ(layer.has_similarity(), plan.role() == v1::LAYER_ROLE_REUSE);
    if (!layer.has_similarity()) continue;
    EXPECT_LE(layer.similarity().min(), plan.similarity());
    EXPECT_GE(layer.similarity().max(), plan.similarity());
    EXPECT_LE(layer.similarity().min(), layer.similarity().median());
    EXPECT_LE(layer.similarity().median(), layer.similarity().max());
  }
  EXPECT_FALSE(result.has_most_similar_pair());  // of maker GREEDY only
  EXPECT_FALSE(result.has_auto_threshold());
}

TEST_F(ServerCalibrationTest, AnAutomaticThresholdIsToldAndLetsLayersReuse) {
  v1::CalibrateRequest request;
  request.add_texts(text(16000, "in the other corner 123 "));
  request.set_window_tokens(256);
  request.set_top_k(4);
  request.set_auto_threshold(true);
  const auto stream = calibrate(server(), request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const v1::CalibrationResult& result = stream.messages.back().result();
  ASSERT_TRUE(result.has_auto_threshold());
  std::vector<double> neighbours;
  for (int32_t layer = 2; layer < 6; ++layer) {
    neighbours.push_back(result.similarity(layer - 1).to_layers(1));
  }
  std::ranges::sort(neighbours);
  EXPECT_NEAR(result.auto_threshold().median_similarity(), (neighbours[1] + neighbours[2]) / 2,
              1e-12);
  EXPECT_EQ(result.auto_threshold().threshold(), 0.9 * result.auto_threshold().median_similarity());
  EXPECT_EQ(result.schedule().calibration().threshold(), result.auto_threshold().threshold());
  EXPECT_TRUE(result.schedule().calibration().auto_threshold());
  EXPECT_GT(result.schedule().reuse_layers_ratio(), 0);
  EXPECT_TRUE(result.has_most_similar_pair());
}

TEST_F(ServerCalibrationTest, ShortTextsAndTextsOfTheirOwnForTheGate) {
  v1::CalibrateRequest request = short_job();
  request.clear_texts();
  for (int32_t i = 0; i < 300; ++i) request.add_texts(text(30, "a row of few words "));
  for (int32_t i = 0; i < 3; ++i) request.add_held_out_texts(text(2000, "held out for the gate "));
  request.set_max_tokens_per_text(600);
  const auto stream = calibrate(server(), request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const auto& started = stream.messages.front().started();
  EXPECT_EQ(started.held_out_tokens(), 3 * 600);
  EXPECT_LT(started.tokens(), 300 * 45);
  const v1::CalibrationResult& result = stream.messages.back().result();
  EXPECT_THAT(result.note(), HasSubstr("300 texts were joined to one"));
  EXPECT_GT(result.schedule().quality().tokens(), 1024);
  // Other held-out texts make another job.
  request.set_held_out_texts(0, text(2000, "held out for the date "));
  const auto other = calibrate(server(), request);
  ASSERT_TRUE(other.status.ok());
  EXPECT_NE(other.messages.front().started().calibration_id(), started.calibration_id());
  request.set_join_texts(true);
  const auto joined = calibrate(server(), request);
  ASSERT_TRUE(joined.status.ok());
  EXPECT_EQ(joined.messages.back().result().note(), "");
  request.set_join_texts(false);
  EXPECT_EQ(calibrate(server(), request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerCalibrationTest, AFailedGateNeedsForce) {
  const auto stream = calibrate(server(), short_job());
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  v1::ActivateScheduleRequest request;
  request.set_schedule_id(stream.messages.back().result().schedule().schedule_id());
  v1::ActivateScheduleResponse response;
  {
    grpc::ClientContext context;
    const auto status = server().calibration->ActivateSchedule(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_EQ(details_of(status).reason, "SCHEDULE_NOT_PASSED");
  }
  request.set_force(true);
  grpc::ClientContext context;
  ASSERT_TRUE(server().calibration->ActivateSchedule(&context, request, &response).ok());
  EXPECT_EQ(server()->engine().active_schedule()->schedule_id, request.schedule_id());
  grpc::ClientContext second;
  v1::GetScheduleResponse schedule;
  ASSERT_TRUE(server().calibration->GetSchedule(&second, {}, &schedule).ok());
  EXPECT_TRUE(schedule.active());
  EXPECT_EQ(schedule.schedule().schedule_id(), request.schedule_id());
}

TEST_F(ServerCalibrationTest, TheSameJobAgainIsNotDoneAgain) {
  const auto first = calibrate(server(), short_job());
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  const int64_t steps = server()->engine().stats().steps;
  const auto second = calibrate(server(), short_job());
  ASSERT_TRUE(second.status.ok());
  ASSERT_EQ(second.messages.size(), 2u);
  EXPECT_TRUE(second.messages[0].started().attached());
  EXPECT_EQ(second.messages[0].started().calibration_id(),
            first.messages[0].started().calibration_id());
  EXPECT_EQ(second.messages[1].result().schedule_json(),
            first.messages.back().result().schedule_json());
  EXPECT_EQ(server()->engine().stats().steps, steps);
  v1::CalibrateRequest other = short_job();
  other.set_min_keys(24);
  const auto third = calibrate(server(), other);
  EXPECT_FALSE(third.messages[0].started().attached());
  EXPECT_NE(third.messages[0].started().calibration_id(),
            first.messages[0].started().calibration_id());
}

TEST_F(ServerCalibrationTest, AFreshRunIsDoneAgain) {
  v1::CalibrateRequest request = short_job();
  ASSERT_TRUE(calibrate(server(), request).status.ok());
  request.set_fresh(true);
  const auto fresh = calibrate(server(), request);
  ASSERT_TRUE(fresh.status.ok());
  EXPECT_FALSE(fresh.messages[0].started().attached());
  EXPECT_GT(fresh.messages.size(), 2u);
}

TEST_F(ServerCalibrationTest, CalibrationsAndSchedulesAreDeletedUnlessTheyAreInUse) {
  const auto delete_calibration = [&](const std::string& id) {
    grpc::ClientContext context;
    v1::DeleteCalibrationRequest request;
    request.set_calibration_id(id);
    v1::DeleteCalibrationResponse response;
    return server().calibration->DeleteCalibration(&context, request, &response);
  };
  const auto delete_schedule = [&](const std::string& id) {
    grpc::ClientContext context;
    v1::DeleteScheduleRequest request;
    request.set_schedule_id(id);
    v1::DeleteScheduleResponse response;
    return server().calibration->DeleteSchedule(&context, request, &response);
  };
  const auto made = calibrate(server(), short_job());
  ASSERT_TRUE(made.status.ok()) << made.status.error_message();
  const std::string first = made.messages.front().started().calibration_id();
  const std::string schedule = made.messages.back().result().schedule().schedule_id();
  grpc::ClientContext context;
  std::unique_ptr<Reader> reader;
  const std::string running = start(context, long_job(), reader);
  const grpc::Status refused = delete_calibration(running);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr(running));
  EXPECT_EQ(details_of(refused).reason, "PRECONDITION");
  cancel(running);
  for (const std::string& id : {running, first}) {
    EXPECT_TRUE(delete_calibration(id).ok());
    EXPECT_EQ(delete_calibration(id).error_code(), grpc::StatusCode::NOT_FOUND);
  }
  EXPECT_TRUE(delete_schedule(schedule).ok());
  EXPECT_EQ(delete_schedule(schedule).error_code(), grpc::StatusCode::NOT_FOUND);
  const auto other = make_schedule(server()->engine(), {1}, {.min_keys = 16});
  v1::ActivateScheduleRequest activation;
  activation.set_schedule_json(to_json(*other));
  activation.set_force(true);
  v1::ActivateScheduleResponse response;
  grpc::ClientContext activating;
  ASSERT_TRUE(server().calibration->ActivateSchedule(&activating, activation, &response).ok());
  const grpc::Status in_use = delete_schedule(other->schedule_id);
  EXPECT_EQ(in_use.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(in_use.error_message(), HasSubstr(other->schedule_id));
}

TEST_F(ServerCalibrationTest, AJobOutlivesItsCallAndCanBeFollowedAgain) {
  std::string id;
  {
    grpc::ClientContext context;
    std::unique_ptr<Reader> reader;
    id = start(context, long_job(), reader);
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_EQ(get(id).state(), v1::CALIBRATION_STATE_RUNNING);

  // The same request attaches; another one is refused while the job runs.
  grpc::ClientContext context;
  std::unique_ptr<Reader> reader;
  EXPECT_EQ(start(context, long_job(), reader), id);
  const auto refused = calibrate(server(), short_job()).status;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(details_of(refused).reason, "CALIBRATION_RUNNING");
  EXPECT_EQ(details_of(refused).metadata.at("calibration_id"), id);

  grpc::ClientContext list_context;
  v1::ListCalibrationsResponse list;
  ASSERT_TRUE(server().calibration->ListCalibrations(&list_context, {}, &list).ok());
  ASSERT_EQ(list.calibrations_size(), 1);
  EXPECT_EQ(list.calibrations(0).calibration_id(), id);

  EXPECT_EQ(cancel(id).state(), v1::CALIBRATION_STATE_CANCELLED);
  v1::CalibrateResponse message;
  while (reader->Read(&message)) EXPECT_TRUE(message.has_progress());
  const auto ended = reader->Finish();
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(details_of(ended).reason, "CANCELLED");
  EXPECT_EQ(watch(id).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(cancel(id).state(), v1::CALIBRATION_STATE_CANCELLED);
  EXPECT_TRUE(all_blocks_free(server()));
}

TEST_F(ServerCalibrationTest, WatchGivesTheResultOfAFinishedJob) {
  const auto stream = calibrate(server(), short_job());
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const auto watched = watch(stream.messages[0].started().calibration_id());
  ASSERT_TRUE(watched.status.ok());
  ASSERT_EQ(watched.messages.size(), 2u);
  EXPECT_EQ(watched.messages[1].result().schedule_json(),
            stream.messages.back().result().schedule_json());
}

TEST_F(ServerCalibrationTest, CancelOnDisconnectEndsTheJobWithItsLastFollower) {
  v1::CalibrateRequest request = long_job();
  request.set_cancel_on_disconnect(true);
  grpc::ClientContext first_context, second_context;
  std::unique_ptr<Reader> first, second;
  const std::string id = start(first_context, request, first);
  start(second_context, request, second);
  first_context.TryCancel();
  first->Finish();
  EXPECT_EQ(get(id).state(), v1::CALIBRATION_STATE_RUNNING);
  second_context.TryCancel();
  second->Finish();
  EXPECT_TRUE(eventually([&] { return get(id).state() == v1::CALIBRATION_STATE_CANCELLED; }));
}

TEST_F(ServerCalibrationTest, DrainingEndsTheJobAsUnavailable) {
  grpc::ClientContext context;
  std::unique_ptr<Reader> reader;
  start(context, long_job(), reader);
  server()->drain(absl::Seconds(5));
  v1::CalibrateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerCalibrationTest, AScheduleThatPassesIsActivatedAndSaved) {
  server_.reset();
  auto options = server_options(demo_model());
  options.schedule_directory = dir_ / "schedules";
  server_ = std::make_unique<TestServer>(options);
  v1::CalibrateRequest request;
  request.add_texts(read_file(demo_model() / "calibration.txt").substr(0, 36000));
  request.set_window_tokens(512);
  request.set_min_keys(64);
  request.set_anchors(8);
  request.set_max_degradation_percent(50);
  const auto stream = calibrate(server(), request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  const v1::CalibrationResult& result = stream.messages.back().result();
  EXPECT_TRUE(result.passed()) << result.schedule().quality().ShortDebugString();
  EXPECT_TRUE(result.activated()) << result.note();
  EXPECT_TRUE(std::filesystem::exists(result.saved_file()));
  EXPECT_TRUE(std::filesystem::exists(options.schedule_directory / "active.json"));
  ASSERT_NE(server()->engine().active_schedule(), nullptr);
  EXPECT_EQ(server()->engine().active_schedule()->schedule_id, result.schedule().schedule_id());
  EXPECT_THAT(server()->metrics_text(),
              HasSubstr("kascade_calibrations_total{outcome=\"passed\"} 1"));

  // What an operator activates while a calibration runs stays active.
  request.set_max_degradation_percent(49);
  const auto chosen = make_schedule(server()->engine(), {1}, {.min_keys = 16});
  {
    grpc::ClientContext context;
    std::unique_ptr<Reader> reader;
    start(context, request, reader);
    ASSERT_TRUE(server()->engine().activate(chosen).ok());
    v1::CalibrateResponse last;
    while (reader->Read(&last)) {
    }
    EXPECT_TRUE(last.result().passed());
    EXPECT_FALSE(last.result().activated());
    EXPECT_THAT(last.result().note(), HasSubstr("was activated meanwhile"));
    EXPECT_EQ(server()->engine().active_schedule(), chosen);
  }

  v1::ScoreRequest scoring;
  scoring.add_inputs()->set_text(read_file(demo_model() / "evaluation.txt").substr(0, 4000));
  scoring.mutable_attention()->set_mode(v1::ATTENTION_MODE_COMPARE);
  const auto scored = score(server(), scoring);
  ASSERT_TRUE(scored.status.ok()) << scored.status.error_message();
  const v1::ScoreSummary& total = scored.messages.back().total();
  EXPECT_FALSE(total.suspect());
  EXPECT_TRUE(total.comparison().has_degradation_percent());
  EXPECT_NEAR(total.comparison().degradation_percent(),
              (total.comparison().sparse_perplexity() / total.perplexity() - 1) * 100, 1e-6);
  EXPECT_LT(total.attention().keys_attended_ratio(), 1);
}

}  // namespace
}  // namespace kascade::testing
