// Tests that what the server answers about schedules is what happened, on disk too.
#include "server/core/schedules.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/size_limit.h"
#include "tests/support/tiny_model.h"

namespace kascade::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SizeLimit;
using testing::TempDir;
using SchedulePtr = std::shared_ptr<const Schedule>;

class SchedulesTest : public ::testing::Test {
 protected:
  SchedulesTest() {
    EngineOptions options;
    options.model_directory = testing::write_tiny_model({}, dir_ / "model");
    options.max_sequences = 8;
    options.max_batch_tokens = 264;
    engine_ = testing::make_engine(options);
    restart();
  }
  void restart() {
    EXPECT_TRUE(engine_->activate(nullptr).ok());
    schedules_ = std::make_unique<Schedules>(*engine_, folder_);
    EXPECT_TRUE(schedules_->load().ok());
  }
  SchedulePtr schedule(int made = 0) {
    auto out = testing::make_schedule(*engine_, {1}, {.min_keys = 16});
    out->created_at = absl::StrCat(2000 + made, "-01-02T03:04:05Z");
    seal(*out);
    return out;
  }
  SchedulePtr active(int made) {
    const SchedulePtr out = schedule(made);
    EXPECT_TRUE(schedules_->activate(out, /*force=*/true).ok());
    return out;
  }
  std::string active_id() const {
    const auto now = engine_->active_schedule();
    return now ? now->schedule_id : "";
  }
  std::vector<std::string> held() const {
    std::vector<std::string> ids;
    for (const SchedulePtr& each : schedules_->list()) ids.push_back(each->schedule_id);
    return ids;
  }
  // A folder that nothing can be written to or removed from, for root neither.
  void lose_folder() {
    std::filesystem::rename(folder_, dir_ / "lost");
    testing::write_file(folder_, "");
  }
  void find_folder() {
    std::filesystem::remove(folder_);
    std::filesystem::rename(dir_ / "lost", folder_);
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  TempDir dir_;
  const std::filesystem::path folder_ = dir_ / "schedules";
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Schedules> schedules_;
};

TEST_F(SchedulesTest, WhatCannotBeSavedIsNotActivated) {
  const std::string old_id = active(1)->schedule_id;
  const SchedulePtr other = schedule(2);
  const auto expect_unchanged = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("schedule ", other->schedule_id, " is not activated")));
    EXPECT_EQ(active_id(), old_id);
    EXPECT_THAT(held(), ElementsAre(old_id));
  };
  lose_folder();
  expect_unchanged(schedules_->activate(other, /*force=*/true).status());
  find_folder();
  {
    const SizeLimit full(100);
    expect_unchanged(schedules_->activate(other, /*force=*/true).status());
  }
  EXPECT_EQ(files(), 2u);  // the old one, and that it is active
  restart();
  EXPECT_EQ(active_id(), old_id);
  EXPECT_THAT(held(), ElementsAre(old_id));
  EXPECT_TRUE(schedules_->activate(other, /*force=*/true).ok());
  EXPECT_EQ(active_id(), other->schedule_id);
}

// The schedule's own file can be written, and the one that says which is active cannot.
TEST_F(SchedulesTest, HalfAnActivationIsTakenBack) {
  std::filesystem::create_directories(folder_ / "active.json");
  const SchedulePtr other = schedule(2);
  EXPECT_EQ(schedules_->activate(other, /*force=*/true).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(active_id(), "");
  EXPECT_EQ(files(), 1u);
}

TEST_F(SchedulesTest, AScheduleOfACalibrationIsHeldEvenIfItCannotBeSaved) {
  const SchedulePtr made = schedule(1);
  lose_folder();
  EXPECT_FALSE(schedules_->add(made).ok());
  EXPECT_THAT(held(), ElementsAre(made->schedule_id));
  EXPECT_EQ(schedules_->activate_after("", made).code(), absl::StatusCode::kFailedPrecondition);
  find_folder();
  EXPECT_TRUE(schedules_->activate(made, /*force=*/true).ok());
  restart();
  EXPECT_EQ(active_id(), made->schedule_id);
}

TEST_F(SchedulesTest, ARestartActivatesWithoutWriting) {
  const std::string id = active(1)->schedule_id;
  const SizeLimit full(0);
  restart();
  EXPECT_EQ(active_id(), id);
  EXPECT_THAT(held(), ElementsAre(id));
}

TEST_F(SchedulesTest, WhatCannotBeForgottenStaysActive) {
  const std::string id = active(1)->schedule_id;
  lose_folder();
  const auto status = schedules_->deactivate().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("still active"));
  EXPECT_EQ(active_id(), id);
  find_folder();
  const auto deactivated = schedules_->deactivate();
  ASSERT_TRUE(deactivated.ok());
  EXPECT_EQ(*deactivated, id);
  EXPECT_EQ(*schedules_->deactivate(), "");
  restart();
  EXPECT_EQ(active_id(), "");
}

TEST_F(SchedulesTest, TheActiveScheduleCannotBeRemoved) {
  const std::string id = active(1)->schedule_id;
  const absl::Status refused = schedules_->remove(id);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(message_of(refused), absl::StrCat("schedule ", id, " is active"));
  EXPECT_EQ(refusal_of(refused)->subject, id);
  EXPECT_EQ(schedules_->remove("none").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(schedules_->deactivate().ok());
  lose_folder();
  EXPECT_EQ(schedules_->remove(id).code(), absl::StatusCode::kInternal);
  EXPECT_THAT(held(), ElementsAre(id));
  find_folder();
  EXPECT_TRUE(schedules_->remove(id).ok());
  EXPECT_THAT(held(), ElementsAre());
  EXPECT_EQ(files(), 0u);
  EXPECT_EQ(schedules_->remove(id).code(), absl::StatusCode::kNotFound);
}

// Else the next start would bring the schedule back.
TEST_F(SchedulesTest, RemovingAScheduleRemovesFilesOfOtherNames) {
  const SchedulePtr made = schedule(1);
  for (const char* name : {"mine.json", "copy.json"}) {
    ASSERT_TRUE(save_schedule(*made, folder_ / name).ok());
  }
  restart();
  EXPECT_THAT(held(), ElementsAre(made->schedule_id));
  EXPECT_TRUE(schedules_->remove(made->schedule_id).ok());
  EXPECT_EQ(files(), 0u);
}

// What the server knows of the quality checks of schedules takes no memory beyond that of those it
// holds.
TEST_F(SchedulesTest, AScheduleThatWasDroppedIsAClaimAgain) {
  auto made = std::make_shared<Schedule>(*schedule(1));
  made->quality.passed = true;
  seal(*made);
  const auto activate = [&] { return schedules_->activate(made, /*force=*/false).status(); };
  EXPECT_EQ(refusal_of(activate())->reason, "SCHEDULE_NOT_VERIFIED");
  ASSERT_TRUE(schedules_->add(made).ok());
  EXPECT_TRUE(activate().ok());
  ASSERT_TRUE(schedules_->deactivate().ok());
  ASSERT_TRUE(schedules_->remove(made->schedule_id).ok());
  EXPECT_EQ(refusal_of(activate())->reason, "SCHEDULE_NOT_VERIFIED");
}

TEST_F(SchedulesTest, TheNumberOfSchedulesIsBoundedAndTheActiveOneStays) {
  schedules_ = std::make_unique<Schedules>(*engine_, "");
  const std::string first = active(0)->schedule_id;
  for (int i = 1; i < 300; ++i) ASSERT_TRUE(schedules_->add(schedule(i)).ok());
  EXPECT_EQ(held().size(), kMaxSchedules);
  EXPECT_EQ(held().back(), first);
  EXPECT_EQ(held().front(), schedule(299)->schedule_id);
}

TEST_F(SchedulesTest, FilesAreBoundedToo) {
  for (int i = 0; i < static_cast<int>(kMaxSchedules) + 10; ++i) {
    const SchedulePtr made = schedule(i);
    testing::write_file(folder_ / (made->schedule_id + ".json"), to_json(*made));
  }
  restart();
  EXPECT_EQ(held().size(), kMaxSchedules);
  EXPECT_EQ(files(), kMaxSchedules);
}

}  // namespace
}  // namespace kascade::core
