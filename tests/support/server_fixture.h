// The fixture for tests that send requests to one server with a tiny random model.
#ifndef KASCADE_TESTS_SUPPORT_SERVER_FIXTURE_H_
#define KASCADE_TESTS_SUPPORT_SERVER_FIXTURE_H_

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_client.h"
#include "tests/support/test_server.h"

namespace kascade::testing {

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    write_tiny_model({.layers = 4, .context = 512, .peaked = true}, dir_.path());
    server_ = std::make_unique<TestServer>(server_options(dir_.path()));
  }

  TestServer& server() { return *server_; }
  void activate(std::vector<int32_t> anchors = {1}) {
    const SelectionSettings keys{
        .family = Family::kKascade, .query_tile = 16, .ratio = 0.1, .min_keys = 8};
    auto& engine = server()->engine();
    ASSERT_TRUE(engine.activate(make_schedule(engine, anchors, keys)).ok());
  }
  static v1::GenerateRequest greedy(const std::string& text, int32_t tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_new_tokens(tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_response()->set_token_ids(true);
    return request;
  }
  static std::string long_text(size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += "the thin lines in the other corner ";
    return text.substr(0, bytes);
  }

  TempDir dir_;
  std::unique_ptr<TestServer> server_;
};

inline v1::ScoreSummary total_of(const Stream<v1::ScoreResponse>& stream) {
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_FALSE(stream.messages.empty());
  if (stream.messages.empty() || !stream.messages.back().has_total()) {
    ADD_FAILURE() << "no total";
    return {};
  }
  return stream.messages.back().total();
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_SERVER_FIXTURE_H_
