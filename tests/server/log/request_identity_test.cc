// Tests which ids of a request are taken from its headers, and what stands for them otherwise.
#include "server/log/request_identity.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kascade::logging {
namespace {

using ::testing::MatchesRegex;

constexpr char kTraceparent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(RequestIdentity, TakesWhatIsValid) {
  const RequestIdentity identity = identify_request("a-Z_0.9:x", kTraceparent);
  EXPECT_EQ(identity.request_id, "a-Z_0.9:x");
  EXPECT_EQ(identity.traceparent, kTraceparent);
  EXPECT_EQ(identify_request(std::string(128, 'x'), "").request_id, std::string(128, 'x'));
}

TEST(RequestIdentity, ReplacesWhatIsNot) {
  for (const std::string& id :
       {std::string(), std::string("a b"), std::string("a\nb"), std::string("\xc3\xa4"),
        std::string("\"x\""), std::string(129, 'x')}) {
    EXPECT_THAT(identify_request(id, "").request_id, MatchesRegex("[0-9a-f]{32}")) << id;
  }
  for (const char* traceparent : {
           "",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
       }) {
    EXPECT_THAT(identify_request("", traceparent).traceparent,
                MatchesRegex("00-[0-9a-f]{32}-[0-9a-f]{16}-00"))
        << traceparent;
  }
}

TEST(RequestIdentity, EachNewOneDiffers) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const RequestIdentity identity = identify_request("", "");
    seen.insert(identity.request_id);
    seen.insert(identity.traceparent);
  }
  EXPECT_EQ(seen.size(), 200u);
}

}  // namespace
}  // namespace kascade::logging
