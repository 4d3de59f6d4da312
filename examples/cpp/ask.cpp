// Asks a model of 'mlaas4hep serve' from C++17, with libcurl and nothing else.
//
//   ask URL MODEL events request.json                      events by name: prints the server's JSON
//   ask URL MODEL tensors event=2,11:event.f32 [...]       float32 tensors: prints one line a row of scores
//
// A tensor is NAME=SHAPE:FILE, its file holds the little-endian float32 values in C order (numpy's array.tofile).
// Copy the class Server into your own program: it keeps its connection, waits where the server is busy, and tells the
// server how long it will wait.

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;  // the first is the number of rows
  std::vector<float> values;        // in C order; NaN where a value is missing
};

struct Reply {
  long status = 0;
  std::string body;
  std::size_t header_length = 0;  // of the JSON in front of binary tensors; 0 where there are none
};

class Server {
 public:
  explicit Server(std::string url, long timeout_ms = 30000, int retries = 2)
      : url_(std::move(url)), timeout_ms_(timeout_ms), retries_(retries), curl_(curl_easy_init(), curl_easy_cleanup) {
    if (!curl_) throw std::runtime_error("libcurl does not start");
    while (!url_.empty() && url_.back() == '/') url_.pop_back();
  }

  // Scores of events by name: {"instances": [{column: value, ...}, ...]} to {"predictions": [...], ...}.
  std::string predict(const std::string& model, const std::string& events) {
    return post("/v1/models/" + escaped(model) + ":predict", {"Content-Type: application/json"}, events).body;
  }

  // The one output of a model for tensors, bit for bit; its values in C order.
  std::vector<float> infer(const std::string& model, const std::vector<Tensor>& inputs) {
    std::ostringstream head;
    head << R"({"parameters":{"binary_data_output":true,"timeout":)" << timeout_ms_ * 1000 << R"(},"inputs":[)";
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Tensor& one = inputs[i];
      head << (i ? "," : "") << R"({"name":")" << one.name << R"(","datatype":"FP32","shape":[)";
      for (std::size_t k = 0; k < one.shape.size(); ++k) head << (k ? "," : "") << one.shape[k];
      head << R"(],"parameters":{"binary_data_size":)" << one.values.size() * sizeof(float) << "}}";
    }
    head << "]}";
    std::string body = head.str();
    const std::string length = "Inference-Header-Content-Length: " + std::to_string(body.size());
    for (const Tensor& one : inputs) {
      body.append(reinterpret_cast<const char*>(one.values.data()), one.values.size() * sizeof(float));
    }
    const Reply reply =
        post("/v2/models/" + escaped(model) + "/infer", {"Content-Type: application/octet-stream", length}, body);
    if (reply.header_length == 0 || reply.header_length > reply.body.size()) {
      throw std::runtime_error("the answer is not in the binary tensor extension");
    }
    std::vector<float> values((reply.body.size() - reply.header_length) / sizeof(float));
    std::memcpy(values.data(), reply.body.data() + reply.header_length, values.size() * sizeof(float));
    return values;
  }

 private:
  // A question to a model has no effect, so that it may be repeated where the connection failed or the server is busy.
  Reply post(const std::string& path, std::vector<std::string> headers, const std::string& body) {
    using clock = std::chrono::steady_clock;
    const auto ends = clock::now() + std::chrono::milliseconds(timeout_ms_);
    for (int attempt = 0;; ++attempt) {
      const long left_ms = std::chrono::duration_cast<std::chrono::milliseconds>(ends - clock::now()).count();
      if (left_ms <= 0) throw std::runtime_error("no answer from " + url_ + " in time");
      Reply reply;
      const CURLcode code = post_once(path, headers, body, left_ms, reply);
      const bool busy = code == CURLE_OK && (reply.status == 503 || reply.status == 429);
      if (code == CURLE_OK && !busy && reply.status < 400) return reply;
      const long wait_ms = (busy ? retry_after_ms() : 0) + pause_ms(attempt);
      if ((code == CURLE_OK && !busy) || attempt == retries_ || wait_ms >= left_ms) fail(code, reply);
      std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
    }
  }

  CURLcode post_once(const std::string& path, const std::vector<std::string>& headers, const std::string& body,
                     long left_ms, Reply& reply) {
    curl_slist* lines = nullptr;
    for (const std::string& one : headers) lines = curl_slist_append(lines, one.c_str());
    lines = curl_slist_append(lines, ("X-Request-Timeout-Ms: " + std::to_string(left_ms)).c_str());
    lines = curl_slist_append(lines, "Expect:");  // a large body is sent at once, without asking for leave
    CURL* curl = curl_.get();
    curl_easy_setopt(curl, CURLOPT_URL, (url_ + path).c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, lines);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, left_ms);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);  // for programs with threads
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Server::take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reply);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Server::take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &reply);
    const CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply.status);
    curl_slist_free_all(lines);
    return code;
  }

  [[noreturn]] void fail(CURLcode code, const Reply& reply) const {
    if (code != CURLE_OK) throw std::runtime_error("no answer from " + url_ + ": " + curl_easy_strerror(code));
    throw std::runtime_error("the server answered " + std::to_string(reply.status) + ": " + reply.body);
  }

  long retry_after_ms() const {
    curl_off_t seconds = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RETRY_AFTER, &seconds);
    return static_cast<long>(seconds) * 1000;
  }

  // Anywhere from nothing to a limit that doubles: clients that failed together do not come back together.
  long pause_ms(int attempt) {
    return std::uniform_int_distribution<long>(0, std::min(2000L, 50L << std::min(attempt, 6)))(random_);
  }

  std::string escaped(const std::string& name) const {
    std::unique_ptr<char, decltype(&curl_free)> text(
        curl_easy_escape(curl_.get(), name.c_str(), static_cast<int>(name.size())), curl_free);
    return text.get();
  }

  static std::size_t take_body(char* data, std::size_t size, std::size_t count, void* to) {
    static_cast<Reply*>(to)->body.append(data, size * count);
    return size * count;
  }

  static std::size_t take_header(char* data, std::size_t size, std::size_t count, void* to) {
    static const std::string wanted = "inference-header-content-length:";
    const std::string line(data, size * count);
    const auto same = [](unsigned char a, unsigned char b) { return std::tolower(a) == b; };
    if (line.size() > wanted.size() && std::equal(wanted.begin(), wanted.end(), line.begin(),
                                                  [&](char w, char l) { return same(l, w); })) {
      static_cast<Reply*>(to)->header_length = std::strtoull(line.c_str() + wanted.size(), nullptr, 10);
    }
    return size * count;
  }

  std::string url_;
  long timeout_ms_;
  int retries_;
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl_;  // keeps the connection between questions
  std::mt19937 random_{std::random_device{}()};
};

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

// NAME=SHAPE:FILE, such as jets=2,6,3:jets.f32
Tensor tensor_of(const std::string& text) {
  const auto equals = text.find('='), colon = text.find(':', equals);
  if (equals == std::string::npos || colon == std::string::npos) {
    throw std::runtime_error("asked for NAME=SHAPE:FILE, found '" + text + "'");
  }
  Tensor tensor{text.substr(0, equals), {}, {}};
  std::istringstream sizes(text.substr(equals + 1, colon - equals - 1));
  std::int64_t count = 1;
  for (std::string size; std::getline(sizes, size, ',');) {
    tensor.shape.push_back(std::stoll(size));
    count *= tensor.shape.back();
  }
  const std::string bytes = content_of(text.substr(colon + 1));
  if (bytes.size() != static_cast<std::size_t>(count) * sizeof(float)) {
    throw std::runtime_error("'" + text + "' asks for " + std::to_string(count) + " values, found " +
                             std::to_string(bytes.size() / sizeof(float)));
  }
  tensor.values.resize(static_cast<std::size_t>(count));
  std::memcpy(tensor.values.data(), bytes.data(), bytes.size());
  return tensor;
}

int main(int count, char** words) {
  const std::vector<std::string> given(words + 1, words + count);
  if (given.size() < 4 || (given[2] != "events" && given[2] != "tensors")) {
    std::cerr << "usage: ask URL MODEL events FILE.json | ask URL MODEL tensors NAME=SHAPE:FILE ...\n";
    return 2;
  }
  curl_global_init(CURL_GLOBAL_DEFAULT);
  try {
    Server server(given[0]);
    if (given[2] == "events") {
      std::cout << server.predict(given[1], content_of(given[3])) << "\n";
      return 0;
    }
    std::vector<Tensor> inputs;
    std::transform(given.begin() + 3, given.end(), std::back_inserter(inputs), tensor_of);
    const std::vector<float> scores = server.infer(given[1], inputs);
    const std::size_t rows = static_cast<std::size_t>(inputs.front().shape.front());
    const std::size_t columns = rows ? scores.size() / rows : 0;
    std::cout.precision(9);  // all digits of a float32
    for (std::size_t i = 0; i < scores.size(); ++i) std::cout << scores[i] << ((i + 1) % columns ? " " : "\n");
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
