// Tests calibrations as jobs that outlive the process: what a later one finds, continues and makes
// of them, whatever became of their files.
#include "server/core/calibration_jobs.h"

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/core/calibration_file.h"
#include "tests/support/engine_client.h"
#include "tests/support/size_limit.h"
#include "tests/support/tiny_model.h"

namespace kascade::core {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using testing::TempDir;

// Follows a job and waits for its end.
class Follower final : public CalibrationSubscriber {
 public:
  void started(const CalibrationStarted& started) override { started_ = started; }
  void progress(const CalibrationReport& report) override {
    const std::lock_guard lock(mutex_);
    done_ = std::max(done_, report.progress.done_tokens);
    stage_ = std::max(stage_, report.progress.stage);
    changed_.notify_all();
  }
  void ended(const absl::Status& status, const CalibrationResult* result) override {
    const std::lock_guard lock(mutex_);
    status_ = status;
    if (result != nullptr) result_ = *result;
    ended_ = true;
    changed_.notify_all();
  }

  const CalibrationStarted& started() const { return started_; }
  absl::Status wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return ended_; }));
    return status_;
  }
  void wait_for_stage(CalibrationStage stage) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60),
                                  [&] { return stage_ >= stage || ended_; }));
  }
  const CalibrationResult& result() const { return *result_; }  // after wait()

 private:
  CalibrationStarted started_{};
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t done_ = 0;
  CalibrationStage stage_ = CalibrationStage::kMeasuring;
  bool ended_ = false;
  absl::Status status_{};
  std::optional<CalibrationResult> result_{};
};

class CalibrationJobsTest : public ::testing::Test {
 protected:
  CalibrationJobsTest() {
    options_.model_directory =
        testing::write_tiny_model({.layers = 4, .context = 512, .peaked = true}, dir_ / "model");
    options_.max_sequences = 8;
    options_.max_batch_tokens = 264;
    options_.threads = 1;
    restart();
  }
  // As a new process does; `folder` may be empty.
  void restart() {
    jobs_.reset();
    engine_ = testing::make_engine(options_);
    schedules_ = std::make_unique<Schedules>(*engine_, folder_);
    EXPECT_TRUE(schedules_->load().ok());
    jobs_ = std::make_unique<CalibrationJobs>(*engine_, *schedules_, metrics_);
    if (!folder_.empty()) jobs_->open(folder_ / "calibrations", memory_);
  }
  PreparedCalibration request(uint64_t seed = 1) const {
    PreparedCalibration out;
    out.options.selection.min_keys = 16;
    out.options.anchors = 2;
    out.options.window_tokens = 128;
    out.options.long_window = false;
    out.texts.texts = {testing::random_tokens(5600, 256, seed)};
    identify(engine_->identity(), out);
    return out;
  }
  std::shared_ptr<Follower> start(const PreparedCalibration& prepared) {
    auto follower = std::make_shared<Follower>();
    const absl::Status status = jobs_->start(prepared, follower);
    EXPECT_TRUE(status.ok()) << status;
    return follower;
  }
  std::shared_ptr<Follower> watch(const std::string& id) {
    auto follower = std::make_shared<Follower>();
    const absl::Status status = jobs_->watch(id, follower);
    EXPECT_TRUE(status.ok()) << status;
    return follower;
  }
  // Starts the job, and ends the process in the middle of it.
  void interrupt(const PreparedCalibration& prepared,
                 CalibrationStage stage = CalibrationStage::kMeasuringCosts) {
    const auto follower = start(prepared);
    follower->wait_for_stage(stage);
    jobs_->shutdown();
    EXPECT_EQ(follower->wait().code(), absl::StatusCode::kUnavailable);
  }
  std::filesystem::path file_of(const std::string& id) const {
    return folder_ / "calibrations" / absl::StrCat(id, ".calibration");
  }
  size_t files() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(folder_ / "calibrations"), {}));
  }
  static std::string content(const std::filesystem::path& file) {
    std::ostringstream out;
    out << std::ifstream(file, std::ios::binary).rdbuf();
    return out.str();
  }
  static std::string comparable(Schedule schedule) {
    schedule.created_at.clear();
    schedule.calibration.duration_seconds = 0;
    seal(schedule);
    return to_json(schedule);
  }

  TempDir dir_;
  std::filesystem::path folder_ = dir_ / "schedules";
  EngineOptions options_;
  metrics::ServerMetrics metrics_;
  MemoryBudget memory_{int64_t{1} << 30, metrics_};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Schedules> schedules_;
  std::unique_ptr<CalibrationJobs> jobs_;
};

TEST_F(CalibrationJobsTest, AnInterruptedJobContinuesToTheSameSchedule) {
  options_.backend = "reference";  // the results of a request do not depend on the others
  restart();
  PreparedCalibration prepared = request();
  prepared.options.layer_cost = LayerCost::kImportance;
  identify(engine_->identity(), prepared);
  const auto undisturbed = start(prepared);
  ASSERT_TRUE(undisturbed->wait().ok());
  const int64_t rows = engine_->stats().rows;
  ASSERT_TRUE(jobs_->remove(prepared.id).ok());

  PreparedCalibration fresh = prepared;
  fresh.fresh = true;  // the measurement of the first one is not taken over
  interrupt(fresh, CalibrationStage::kCheckingQuality);
  restart();
  const auto found = jobs_->get(prepared.id);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->state, CalibrationState::kRunning);
  const auto follower = watch(prepared.id);
  ASSERT_TRUE(follower->wait().ok());
  EXPECT_EQ(follower->started().tokens, prepared.tokens);
  EXPECT_EQ(follower->started().data_digest, prepared.data_digest);
  EXPECT_EQ(comparable(*follower->result().schedule), comparable(*undisturbed->result().schedule));
  EXPECT_EQ(follower->result().similarity, undisturbed->result().similarity);
  EXPECT_LT(engine_->stats().rows, rows * 3 / 4);
}

TEST_F(CalibrationJobsTest, TheSameRequestAttachesToAJobThatContinues) {
  const PreparedCalibration prepared = request();
  interrupt(prepared);
  restart();
  const auto follower = start(prepared);
  EXPECT_TRUE(follower->started().attached);
  EXPECT_TRUE(follower->wait().ok());
  const auto refused = std::make_shared<Follower>();
  interrupt(request(2));
  restart();
  EXPECT_TRUE(absl::IsAborted(jobs_->start(request(3), refused)));
}

TEST_F(CalibrationJobsTest, AJobThatEndedIsFoundWithItsResult) {
  const PreparedCalibration prepared = request();
  const auto first = start(prepared);
  ASSERT_TRUE(first->wait().ok());
  restart();
  const int64_t rows = engine_->stats().rows;
  const auto again = start(prepared);
  ASSERT_TRUE(again->wait().ok());
  EXPECT_TRUE(again->started().attached);
  EXPECT_EQ(engine_->stats().rows, rows);
  const CalibrationResult &before = first->result(), &after = again->result();
  EXPECT_EQ(to_json(*after.schedule), to_json(*before.schedule));
  EXPECT_EQ(after.similarity, before.similarity);
  ASSERT_EQ(after.candidates.size(), before.candidates.size());
  EXPECT_EQ(after.candidates[0].quality.kinds, before.candidates[0].quality.kinds);
  EXPECT_EQ(after.candidates[0].quality.doubt, before.candidates[0].quality.doubt);
  ASSERT_EQ(after.layers.size(), before.layers.size());
  EXPECT_EQ(after.layers[3].recall, before.layers[3].recall);
  EXPECT_EQ(after.note, before.note);
  EXPECT_EQ(after.saved_file, before.saved_file);
  const auto snapshot = jobs_->get(prepared.id);
  EXPECT_EQ(snapshot->report.progress.stage, CalibrationStage::kDone);
  EXPECT_GE(snapshot->ended, snapshot->began);
}

TEST_F(CalibrationJobsTest, AFreshRunOrADeletedScheduleBeginsAnew) {
  PreparedCalibration prepared = request();
  const auto first = start(prepared);
  ASSERT_TRUE(first->wait().ok());
  prepared.fresh = true;
  const auto second = start(prepared);
  EXPECT_FALSE(second->started().attached);
  ASSERT_TRUE(second->wait().ok());
  // With f32 weights, the last bits of the quality check depend on what runs at the same time.
  EXPECT_EQ(second->result().schedule->calibration.data_digest,
            first->result().schedule->calibration.data_digest);
  prepared.fresh = false;
  EXPECT_TRUE(start(prepared)->started().attached);
  EXPECT_TRUE(schedules_->remove(second->result().schedule->schedule_id).ok());
  const auto third = start(prepared);
  EXPECT_FALSE(third->started().attached);
  EXPECT_TRUE(third->wait().ok());
  EXPECT_THAT(jobs_->list(), SizeIs(1));
}

TEST_F(CalibrationJobsTest, ACancelledJobIsNotContinued) {
  const PreparedCalibration prepared = request();
  start(prepared);
  const uintmax_t with_texts = std::filesystem::file_size(file_of(prepared.id));
  const auto follower = std::make_shared<Follower>();
  ASSERT_TRUE(jobs_->cancel(prepared.id, follower).ok());
  EXPECT_TRUE(absl::IsCancelled(follower->wait()));
  EXPECT_LT(std::filesystem::file_size(file_of(prepared.id)), with_texts / 8);
  restart();
  const auto found = jobs_->get(prepared.id);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->state, CalibrationState::kCancelled);
  EXPECT_EQ(found->status, follower->wait());
  EXPECT_FALSE(start(prepared)->started().attached);
}

TEST_F(CalibrationJobsTest, OnlyAJobThatHasEndedIsRemoved) {
  const PreparedCalibration prepared = request();
  const auto first = start(prepared);
  const absl::Status refused = jobs_->remove(prepared.id);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(prepared.id));
  EXPECT_EQ(refusal_of(refused)->remedy, "cancel it first");
  ASSERT_TRUE(first->wait().ok());
  // A folder in which nothing can be removed, by root neither.
  std::filesystem::rename(folder_ / "calibrations", dir_ / "lost");
  testing::write_file(folder_ / "calibrations", "");
  EXPECT_EQ(jobs_->remove(prepared.id).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(jobs_->get(prepared.id).ok());
  std::filesystem::remove(folder_ / "calibrations");
  std::filesystem::rename(dir_ / "lost", folder_ / "calibrations");
  EXPECT_TRUE(jobs_->remove(prepared.id).ok());
  EXPECT_EQ(files(), 0u);
  EXPECT_TRUE(absl::IsNotFound(jobs_->remove(prepared.id)));
  EXPECT_THAT(schedules_->list(), SizeIs(1));
}

// Whatever became of the file of an interrupted job, the job continues, begins anew or has failed.
TEST_F(CalibrationJobsTest, DamagedFilesNeverCrash) {
  const PreparedCalibration prepared = request();
  interrupt(prepared);
  jobs_.reset();
  const std::filesystem::path file = file_of(prepared.id);
  const std::string whole = content(file);
  std::mt19937 random(1);
  size_t failed = 0;
  for (int i = 0; i < 60; ++i) {
    std::string damaged = whole;
    const size_t place = i < 20 ? random() % 4000 : random() % whole.size();
    damaged[place] = static_cast<char>(damaged[place] ^ (1 << random() % 8));
    if (i % 3 == 0) damaged.resize(place);
    testing::write_file(file, damaged);
    const auto stored = CalibrationFile::load_all(folder_ / "calibrations", *engine_);
    ASSERT_THAT(stored, SizeIs(1));
    EXPECT_EQ(stored[0].job->id(), prepared.id);
    EXPECT_EQ(stored[0].prepared.has_value(), stored[0].job->running());
    if (stored[0].job->running()) continue;
    ++failed;
    EXPECT_TRUE(absl::IsDataLoss(stored[0].job->status)) << stored[0].job->status;
  }
  EXPECT_GT(failed, 10u);
  EXPECT_LT(failed, 60u);
  testing::write_file(file, "no calibration");
  restart();
  EXPECT_EQ(jobs_->get(prepared.id)->state, CalibrationState::kFailed);
  EXPECT_TRUE(start(prepared)->wait().ok());  // in the place of the damaged one
}

TEST_F(CalibrationJobsTest, ForeignFilesStayAndHalfWrittenOnesGo) {
  const std::filesystem::path calibrations = folder_ / "calibrations";
  const PreparedCalibration prepared = request();
  ASSERT_TRUE(start(prepared)->wait().ok());
  testing::write_file(calibrations / "notes.txt", "text");
  testing::write_file(calibrations / "cal-1.calibration", "text");
  testing::write_file(calibrations / absl::StrCat(".", prepared.id, ".calibration.x7Yz01"), "text");
  std::filesystem::create_directories(calibrations / "cal-0123456789abcdef.calibration");
  // One of another model, and one under a wrong name.
  std::filesystem::copy_file(file_of(prepared.id), file_of("cal-0000000000000000"));
  restart();
  EXPECT_THAT(jobs_->list(), SizeIs(2));
  EXPECT_EQ(jobs_->get("cal-0000000000000000")->state, CalibrationState::kFailed);
  EXPECT_EQ(files(), 5u);
  testing::write_tiny_model({.layers = 4, .context = 512, .seed = 2}, options_.model_directory);
  restart();
  EXPECT_THAT(jobs_->list(), SizeIs(1));
  EXPECT_EQ(files(), 5u);
}

TEST_F(CalibrationJobsTest, TheNumberOfJobsIsBoundedOnDiskToo) {
  std::string last;
  for (uint64_t i = 0; i < 40; ++i) {
    PreparedCalibration prepared = request(i);
    prepared.texts.texts = {testing::random_tokens(100, 256, i)};  // too little: it fails at once
    identify(engine_->identity(), prepared);
    EXPECT_EQ(start(prepared)->wait().code(), absl::StatusCode::kInvalidArgument);
    last = prepared.id;
  }
  EXPECT_EQ(files(), kMaxEndedJobs + 1);
  restart();
  EXPECT_EQ(files(), kMaxEndedJobs + 1);
  const auto jobs = jobs_->list();
  ASSERT_THAT(jobs, SizeIs(kMaxEndedJobs + 1));
  EXPECT_EQ(jobs.front().id, last);
  EXPECT_THAT(std::string(jobs.front().status.message()), HasSubstr("tokens"));
}

TEST_F(CalibrationJobsTest, WithoutAFolderJobsEndWithTheProcess) {
  folder_.clear();
  restart();
  const auto follower = start(request());
  jobs_->shutdown();
  EXPECT_TRUE(absl::IsCancelled(follower->wait()));
  restart();
  EXPECT_THAT(jobs_->list(), SizeIs(0));
}

TEST_F(CalibrationJobsTest, AFullDiskEndsNoCalibration) {
  const PreparedCalibration prepared = request();
  const uint64_t texts = prepared.tokens * sizeof(Token);
  for (const uint64_t limit : {uint64_t{0}, texts + 3000}) {  // at the beginning, and on the way
    const testing::SizeLimit full(limit);
    PreparedCalibration fresh = prepared;
    fresh.fresh = true;
    EXPECT_TRUE(start(fresh)->wait().ok());
  }
  EXPECT_EQ(files(), 1u);
}

}  // namespace
}  // namespace kascade::core
