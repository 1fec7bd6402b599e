// Tests Trace over gRPC with a tiny random model: what comes in which order, the figures beside
// those of the engine, and refusals.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/trace/trace_recorder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/grpc/translate_trace.h"
#include "tests/support/server_fixture.h"

namespace kascade::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Stream<v1::TraceResponse> trace(TestServer& server, const v1::TraceRequest& request) {
  Stream<v1::TraceResponse> out;
  grpc::ClientContext context;
  auto reader = server.inference->Trace(&context, request);
  for (v1::TraceResponse message; reader->Read(&message);) out.messages.push_back(message);
  out.status = reader->Finish();
  return out;
}

class TraceServerTest : public ServerTest {
 protected:
  static v1::TraceRequest asking(size_t bytes = 450) {
    v1::TraceRequest request;
    request.set_text(long_text(bytes));
    return request;
  }
  std::vector<Token> tokens_of(const std::string& text) {
    return server()->engine().tokenizer().encode(text, {}).value_or(std::vector<Token>{});
  }
  // The messages of the stream but for progress.
  std::vector<v1::TraceResponse> told(const v1::TraceRequest& request) {
    auto stream = trace(server(), request);
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    std::erase_if(stream.messages, [](const auto& message) { return message.has_progress(); });
    return stream.messages;
  }
};

TEST_F(TraceServerTest, TellsWhatTheEngineRecords) {
  activate({1, 2});
  const auto request = asking();
  const std::vector<Token> tokens = tokens_of(request.text());
  const auto last = static_cast<int32_t>(tokens.size()) - 1;
  const auto messages = told(request);
  ASSERT_EQ(messages.size(), 6u);  // started, four layers, finished
  const v1::TraceStarted& started = messages.front().started();
  EXPECT_EQ(started.tokens(), last + 1);
  EXPECT_EQ(started.position(), last);
  EXPECT_EQ(started.token_id(), tokens.back());
  EXPECT_EQ(started.token_text(), server()->engine().tokenizer().token_text(tokens.back()));
  EXPECT_EQ(started.phase(), v1::SELECTION_PHASE_ROW);
  EXPECT_EQ(started.first_position(), last);
  EXPECT_EQ(started.last_position(), last);
  EXPECT_EQ(started.query_tile(), 16);
  EXPECT_EQ(started.key_tile(), 1);
  EXPECT_EQ(started.map_tile(), 16);
  const auto active = server()->engine().active_schedule();
  EXPECT_EQ(started.attention().schedule().schedule_id(), active->schedule_id);
  EXPECT_THAT(started.layers(), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(started.kv_heads(), ElementsAre(0, 1));

  const auto recorder = std::make_shared<TraceRecorder>(
      TraceOptions{.position = last, .row_alone = true, .layers = {0, 1, 2, 3}, .kv_heads = {0, 1}},
      make_policy(ScheduledAttention{.schedule = active}, 4));
  std::vector<Token> fed = tokens;
  fed.push_back(0);
  const Reply reply = run(
      server()->engine(),
      {.tokens = fed, .task = Observe{recorder, last}, .attention = ScheduledAttention{active}});
  const Trace expected = recorder->take();
  for (size_t l = 0; l < 4; ++l) {
    const v1::LayerTrace& layer = messages[l + 1].layer();
    const LayerTrace& wanted = expected.layers[l];
    EXPECT_EQ(layer.layer(), wanted.layer);
    EXPECT_EQ(layer.kind(), static_cast<v1::TracedLayerKind>(static_cast<int>(wanted.kind) + 1));
    EXPECT_EQ(layer.source_layer(), l == 3 ? 2 : static_cast<int>(l));
    EXPECT_EQ(layer.causal_keys(), last + 1);
    ASSERT_EQ(layer.heads_size(), 2);
    for (int g = 0; g < 2; ++g) {
      const v1::HeadTrace& head = layer.heads(g);
      EXPECT_EQ(head.kv_head(), g);
      EXPECT_EQ(head.source_kv_head(), l == 3 ? 1 - g : g) << "the head map is crossed";
      EXPECT_EQ(head.attended_keys(), wanted.heads[g].attended_keys);
      EXPECT_EQ(head.attended_mass(), wanted.heads[g].attended_mass);
      EXPECT_THAT(head.selected(), ElementsAreArray(wanted.heads[g].selected));
      EXPECT_THAT(head.scores(), ElementsAreArray(wanted.heads[g].scores));
      // Layer 0 is dense and serves nobody here; layer 3 reuses.
      EXPECT_EQ(head.has_selected_mass(), l == 1 || l == 2);
    }
  }
  const v1::AttentionReport& report = messages.back().finished().attention();
  EXPECT_EQ(report.positions(), last + 1);
  EXPECT_EQ(report.schedule_id(), active->schedule_id);
  const AttentionCounts& counts = reply.finish.counts.at(0);
  EXPECT_EQ(report.keys_attended_ratio(),
            static_cast<double>(counts.attended) / static_cast<double>(counts.causal));
  EXPECT_TRUE(all_blocks_free(server()));
}

TEST_F(TraceServerTest, APositionIsTracedAsIfTheTextEndedThere) {
  activate();
  auto whole = asking(450), cut = whole;
  whole.set_position(200);
  auto& ids = *cut.mutable_token_ids();
  const auto tokens = tokens_of(whole.text());
  ids.mutable_ids()->Add(tokens.begin(), tokens.begin() + 201);
  const auto a = told(whole), b = told(cut);
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(a[0].started().tokens(), static_cast<int>(tokens.size()));
  for (size_t i = 1; i < a.size(); ++i) {
    EXPECT_EQ(a[i].SerializeAsString(), b[i].SerializeAsString());
  }
}

TEST_F(TraceServerTest, ATileIsTracedWithAllItsRows) {
  activate();
  auto request = asking();
  request.set_phase(v1::SELECTION_PHASE_TILE);
  request.set_position(200);
  const auto messages = told(request);
  EXPECT_EQ(messages[0].started().first_position(), 192);
  EXPECT_EQ(messages[0].started().last_position(), 207);
  EXPECT_EQ(messages[2].layer().causal_keys(), 208);
  // 19 of 192 keys, and the own tile.
  EXPECT_EQ(messages[2].layer().heads(0).attended_keys(), 19 + 16);
  EXPECT_EQ(messages[2].layer().heads(0).selected_size(), 19);
}

TEST_F(TraceServerTest, LayersHeadsAndMapsAreThoseAskedFor) {
  activate();
  auto request = asking();
  for (const int32_t layer : {3, 1, 3}) request.add_layers(layer);
  request.add_kv_heads(1);
  request.set_map(true);
  const auto messages = told(request);
  ASSERT_EQ(messages.size(), 6u);  // started, (layer, map) twice, finished
  EXPECT_THAT(messages[0].started().layers(), ElementsAre(1, 3));
  EXPECT_EQ(messages[1].layer().layer(), 1);
  EXPECT_EQ(messages[1].layer().heads_size(), 1);
  EXPECT_EQ(messages[4].map().layer(), 3);
  const v1::TraceMap& map = messages[2].map();
  EXPECT_EQ(map.layer(), 1);
  EXPECT_EQ(map.kv_head(), 1);
  EXPECT_EQ(map.first_row(), 0);
  ASSERT_EQ(map.rows_size(), (messages[0].started().position() + 16) / 16);
  for (int row = 0; row < map.rows_size(); ++row) {
    double sum = 0;
    for (const float mass : map.rows(row).mass()) sum += mass;
    EXPECT_EQ(map.rows(row).attended_keys_size(), row + 1);
    EXPECT_NEAR(sum, 1, 1e-5);
    EXPECT_GT(map.rows(row).attended_keys(row), 0) << "the own tile";
  }
}

TEST_F(TraceServerTest, AllKeysRecallAllMass) {
  activate();
  auto request = asking();
  request.mutable_attention()->mutable_schedule()->set_ratio(1);
  for (const auto& message : told(request)) {
    for (const auto& head : message.layer().heads()) {
      EXPECT_EQ(head.attended_keys(), message.layer().causal_keys());
      EXPECT_DOUBLE_EQ(head.attended_mass(), 1);
      EXPECT_EQ(head.takes_all(), head.has_selected_mass());
    }
  }
}

TEST_F(TraceServerTest, EveryWayToAttendCanBeTraced) {
  auto request = asking();
  request.mutable_attention()->mutable_dense();
  const auto dense = told(request);
  EXPECT_EQ(dense[1].layer().kind(), v1::TRACED_LAYER_KIND_DENSE);
  EXPECT_DOUBLE_EQ(dense[1].layer().heads(1).attended_mass(), 1);
  auto& baseline = *request.mutable_attention()->mutable_baseline();
  baseline.set_kind(v1::BASELINE_KIND_QUEST);
  baseline.set_page_size(8);
  baseline.set_min_keys(20);
  const auto quest = told(request);
  EXPECT_EQ(quest[0].started().key_tile(), 8);
  const v1::HeadTrace& pages = quest[3].layer().heads(0);  // layers 0 and 1 are dense
  EXPECT_GE(pages.selected_size(), 2);
  EXPECT_THAT(pages.scores(), IsEmpty());
  EXPECT_LT(pages.attended_mass(), 1);
  baseline.Clear();
  baseline.set_kind(v1::BASELINE_KIND_WINDOW);
  baseline.set_window(33);
  const auto window = told(request);
  EXPECT_EQ(window[1].layer().kind(), v1::TRACED_LAYER_KIND_WINDOW);
  EXPECT_EQ(window[1].layer().heads(0).attended_keys(), 33);
  EXPECT_FALSE(window[1].layer().heads(0).has_selected_mass());
}

TEST_F(TraceServerTest, RefusesWhatItCannotTrace) {
  const auto none = trace(server(), asking());
  expect(none.status, {grpc::StatusCode::FAILED_PRECONDITION, "NO_SCHEDULE", ""}, "no schedule");
  EXPECT_THAT(none.messages, IsEmpty());
  activate();
  const struct {
    std::string what;
    Expected expected;
    std::function<void(v1::TraceRequest&)> change;
  } cases[] = {
      {"no input", bad("input"), [](auto& r) { r.clear_input(); }},
      {"empty", bad("text"), [](auto& r) { r.set_text(""), r.set_add_bos(false); }},
      {"unknown id", bad("token_ids.ids[1]", "UNKNOWN_TOKEN"),
       [](auto& r) {
         r.mutable_token_ids()->add_ids(1);
         r.mutable_token_ids()->add_ids(5000);
       }},
      {"too long", bad("text", "TOO_LONG"), [](auto& r) { r.set_text(std::string(600, 'x')); }},
      {"position -1", bad("position"), [](auto& r) { r.set_position(-1); }},
      {"position at the end", bad("position"),
       [](auto& r) { r.set_text("xy"), r.set_position(3); }},
      {"layer -1", bad("layers[0]"), [](auto& r) { r.add_layers(-1); }},
      {"layer 4", bad("layers[1]"), [](auto& r) { r.add_layers(0), r.add_layers(4); }},
      {"head 2", bad("kv_heads[0]"), [](auto& r) { r.add_kv_heads(2); }},
      {"phase", bad("phase"), [](auto& r) { r.set_phase(static_cast<v1::SelectionPhase>(9)); }},
      {"no choice", bad("attention"), [](auto& r) { r.mutable_attention(); }},
      {"ratio", bad("attention.schedule.ratio"),
       [](auto& r) { r.mutable_attention()->mutable_schedule()->set_ratio(2); }},
      {"dense layer", bad("attention.baseline.dense_layers.layers[0]"),
       [](auto& r) {
         auto& baseline = *r.mutable_attention()->mutable_baseline();
         baseline.set_kind(v1::BASELINE_KIND_ORACLE);
         baseline.mutable_dense_layers()->add_layers(4);
       }},
      {"unknown schedule",
       {grpc::StatusCode::NOT_FOUND, "NOT_FOUND", ""},
       [](auto& r) { r.mutable_attention()->mutable_schedule()->set_schedule_id("none"); }},
  };
  for (const auto& test : cases) {
    auto request = asking();
    test.change(request);
    const auto stream = trace(server(), request);
    EXPECT_THAT(stream.messages, IsEmpty()) << test.what;
    expect(stream.status, test.expected, test.what);
  }
  auto request = asking();
  request.set_text("xy");
  request.set_position(3);
  EXPECT_EQ(trace(server(), request).status.error_message(), "position: must be in [0, 2], got 3");
  // A text beyond the context can be traced within it.
  request.set_text(std::string(600, 'x'));
  request.clear_position();
  EXPECT_EQ(trace(server(), request).status.error_message(),
            "text: has 601 tokens; at most 512 can be traced; name a position below that");
  request.set_position(511);
  EXPECT_EQ(told(request)[0].started().tokens(), 601);
}

TEST_F(TraceServerTest, EndsWithItsDeadlineAndItsClient) {
  activate();
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  auto reader = server().inference->Trace(&late, asking());
  v1::TraceResponse message;
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  grpc::ClientContext gone;
  reader = server().inference->Trace(&gone, asking());
  gone.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(all_blocks_free(server()));
}

// Long layers and maps come in parts below the size of message that clients accept by default.
TEST(TraceOnTheWire, LongMapsComeInParts) {
  TraceMap map{.layer = 3, .kv_head = 1};
  for (size_t row = 0; row < 1024; ++row) {
    map.rows.push_back({std::vector<float>(row + 1, 1e-3f), std::vector<float>(row + 1, 1e-3f),
                        std::vector<uint8_t>(row + 1, 16)});
  }
  const auto parts = server::to_proto(map);
  EXPECT_GT(parts.size(), 3u);
  int rows = 0;
  for (const auto& part : parts) {
    EXPECT_EQ(part.layer(), 3);
    EXPECT_EQ(part.kv_head(), 1);
    EXPECT_EQ(part.first_row(), rows);
    EXPECT_LT(part.ByteSizeLong(), size_t{2} << 20);
    rows += part.rows_size();
  }
  EXPECT_EQ(rows, 1024);
  LayerTrace layer{.layer = 2, .kind = LayerKind::kSelecting, .selects = true, .causal_keys = 9};
  for (int32_t g = 0; g < 64; ++g) {
    layer.heads.push_back({.kv_head = g});
    layer.heads.back().selected.assign(16384, 16000);
    layer.heads.back().scores.assign(16384, 0.5f);
  }
  int heads = 0;
  for (const auto& part : server::to_proto(layer)) {
    EXPECT_EQ(part.kind(), v1::TRACED_LAYER_KIND_ANCHOR);
    EXPECT_EQ(part.heads(0).kv_head(), heads);
    EXPECT_LT(part.ByteSizeLong(), size_t{2} << 20);
    heads += part.heads_size();
  }
  EXPECT_EQ(heads, 64);
}

}  // namespace
}  // namespace kascade::testing
